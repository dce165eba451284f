"""What happens in folders, in real ones."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from userproxy.folders import FolderWatch, leading_to

QUIET, LONGEST = 0.02, 0.5


async def until_noticed(watch: FolderWatch, change: Callable[[], object]) -> bool:
    """What the watch says of a change that comes while it waits."""
    async with asyncio.timeout(8), asyncio.TaskGroup() as group:
        noticed = group.create_task(watch.changed(QUIET, LONGEST), name="watch")
        await asyncio.sleep(0)
        change()
    return noticed.result()


def rename_into_place(folder: Path) -> None:
    (folder / ".new").write_text("new")
    (folder / ".new").replace(folder / "file")


def swing_link(folder: Path) -> None:
    (folder / "..tmp").symlink_to("elsewhere")
    (folder / "..tmp").replace(folder / "..data")


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda folder: (folder / "file").write_text("new"),
    "truncated": lambda folder: os.truncate(folder / "file", 1),
    "made": lambda folder: (folder / "other").touch(),
    "deleted": lambda folder: (folder / "file").unlink(),
    "renamed into place": rename_into_place,
    "moved away": lambda folder: (folder / "file").rename(folder.parent / "file"),
    "link of a mount": swing_link,
    "permissions": lambda folder: (folder / "file").chmod(0o600),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_happens_in_a_folder_is_noticed(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("old")
    with FolderWatch([folder]) as watch:
        assert await until_noticed(watch, lambda: change(folder))


async def test_what_happened_before_the_wait_is_noticed(tmp_path: Path) -> None:
    with FolderWatch([tmp_path]) as watch:
        (tmp_path / "file").touch()
        async with asyncio.timeout(8):
            assert await watch.changed(QUIET, LONGEST)


async def test_a_folder_within_is_not_watched(tmp_path: Path) -> None:
    (tmp_path / "within").mkdir()
    with FolderWatch([tmp_path]) as watch:
        (tmp_path / "within" / "file").touch()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await watch.changed(QUIET, LONGEST)
        assert await until_noticed(watch, (tmp_path / "file").touch)


@pytest.mark.parametrize("going", [shutil.rmtree, lambda folder: folder.rename(folder.parent / "away")])
async def test_a_folder_that_goes_is_told(tmp_path: Path, going: Callable[[Path], object]) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with FolderWatch(folders) as watch:
        assert not await until_noticed(watch, lambda: going(folders[1]))


async def test_changes_without_end_are_told_after_a_while(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()

    def write() -> None:
        (tmp_path / "file").write_text("again")
        handles[0] = loop.call_later(QUIET / 4, write)

    handles = [loop.call_soon(write)]
    with FolderWatch([tmp_path]) as watch:
        async with asyncio.timeout(8):
            assert await watch.changed(QUIET, 0.1)
    handles[0].cancel()


async def test_a_watch_that_is_ended_says_so(tmp_path: Path) -> None:
    with FolderWatch([tmp_path]) as watch:
        assert not await until_noticed(watch, watch.end)
        assert not await watch.changed(QUIET, LONGEST)


async def test_a_missing_folder_is_an_error_and_costs_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError, match="missing"):
        FolderWatch([tmp_path, tmp_path / "missing"])
    with FolderWatch([tmp_path]):
        pass
    assert os.listdir("/proc/self/fd") == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        FolderWatch([tmp_path / "file"])


def test_what_leads_to_a_file_are_its_folder_and_those_of_links(tmp_path: Path) -> None:
    real, links = tmp_path / "real", tmp_path / "links"
    (real / "deep").mkdir(parents=True)
    links.mkdir()
    (links / "absolute").symlink_to(real)
    (links / "relative").symlink_to("../real/deep")
    (real / "deep" / "file").symlink_to("../target")
    assert leading_to(real / "target") == (real,)
    assert leading_to(links / "absolute" / "target") == (links, real)
    assert leading_to(links / "relative" / "file") == (links, real / "deep", real)
    assert leading_to(real / "missing" / "file") == (real / "missing",)
    (real / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        leading_to(real / "circle")

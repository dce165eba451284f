"""Real files, watched: every way in which editors, tools and mounts change them."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.cluster.examples import SERVICE, a_service, as_text, put
from userproxy.cluster.manifests import ManifestSource
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey
from userproxy.cluster.store import Store
from userproxy.errors import UsageError
from userproxy.model import IPFamily

DOUBT = 0.3
"""The seconds that a file which drops objects is not believed."""


class Watch:
    """What follows from the manifests: the ports of each Service as they are now, and every change since the start."""

    def __init__(self, paths: Sequence[Path], logs: Sequence[Any]) -> None:
        self.store = Store()
        self.changes = self.store.subscribe(IPFamily.IPV4)
        self.source = ManifestSource(paths, self.store, self.on_change)
        self.ports: dict[str, int] = {}
        self.changed: list[str] = []
        self._logs = logs

    def on_change(self) -> None:
        for name, state in self.changes.take_changes().items():
            self.changed.append(name.name)
            if state is None:
                del self.ports[name.name]
            else:
                self.ports[name.name] = state.service.ports[0].port

    def logged(self, level: str) -> list[str]:
        return [str(entry.get("manifest", entry["event"])) for entry in self._logs if entry["log_level"] == level]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the watch run until `condition` holds."""
        async with asyncio.timeout(8):
            while not condition():
                await asyncio.sleep(0.005)

    async def until_ports(self, **ports: int) -> None:
        await self.until(lambda: self.ports == ports)


@asynccontextmanager
async def watching(*paths: Path) -> AsyncIterator[Watch]:
    with capture_logs() as logs:
        watch = Watch(paths, logs)
        watch.source.load()
        watch.on_change()
        watch.changed.clear()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.source.watch(), name="watch manifests")
            yield watch
            task.cancel()


def write(path: Path, *documents: Any) -> None:
    """In place, as a shell's redirection does."""
    path.write_text(as_text(*documents))


def swap(path: Path, *documents: Any) -> None:
    """By renaming, as editors and careful tools do."""
    draft = path.with_name(f".{path.name}.swp")
    write(draft, *documents)
    draft.rename(path)


async def after_a_look(watch: Watch, folder: Path) -> None:
    """Every change made so far has been seen: a later one has been taken over. Only the watch itself knows more."""
    number = watch.ports.get("marker", 0) + 1
    write(folder / "zz-marker.yaml", a_service("marker", port=number))
    await watch.until(lambda: watch.ports.get("marker") == number)
    watch.changed = [name for name in watch.changed if name != "marker"]


async def test_files_of_a_folder_come_change_and_go(tmp_path: Path) -> None:
    write(tmp_path / "web.yaml", a_service("web", port=1))
    write(tmp_path / ".hidden.yaml", a_service("hidden"))
    write(tmp_path / "notes.txt", a_service("notes"))
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    write(tmp_path / "touched.yaml", a_service("touched", port=9))
    async with watching(tmp_path) as watch:
        assert watch.ports == {"web": 1, "touched": 9}
        write(tmp_path / "web.yaml", a_service("web", port=2))
        (tmp_path / "api.yml").write_text(as_text(a_service("api", port=3)))
        await watch.until_ports(web=2, api=3, touched=9)
        (tmp_path / "touched.yaml").touch()
        (tmp_path / "web.yaml").unlink()
        (tmp_path / "api.yml").rename(tmp_path / ".api.yml")
        (tmp_path / "new.json").write_text(json.dumps(a_service("new", port=4)))
        await watch.until_ports(new=4, touched=9)
        assert sorted(watch.changed) == ["api", "api", "new", "web", "web"]
        assert watch.logged("error") == []


async def test_a_file_that_was_given_comes_changes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "web.conf"
    write(path, a_service("web", port=1))
    write(tmp_path / "other.yaml", a_service("other"))
    async with watching(path) as watch:
        path.unlink()
        await watch.until_ports()
        assert list(watch.source.problems) == [f"{path}: there is no such file or folder any more"]
        write(path, a_service("web", port=3))
        await watch.until_ports(web=3)
        assert not watch.source.problems
        assert watch.logged("error") == [f"{path}: there is no such file or folder any more"]


async def test_a_config_map_mount_changes_all_its_files_at_once(tmp_path: Path) -> None:
    """As the kubelet does it: a new hidden folder, and the link to it renamed into place."""

    def publish(version: str, port: int) -> None:
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        write(folder / "web.yaml", a_service("web", port=port))
        write(folder / "api.yaml", a_service("api", port=port))
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish("2026_01", 1)
    for name in ("web.yaml", "api.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    async with watching(tmp_path) as watch:
        await after_a_look(watch, tmp_path)
        publish("2026_02", 2)
        shutil.rmtree(tmp_path / "..2026_01")
        await watch.until_ports(web=2, api=2, marker=1)
        assert sorted(watch.changed) == ["api", "web"]


async def test_a_broken_file_keeps_its_last_good_content_and_says_so_once(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    write(path, a_service("web", port=1))
    async with watching(tmp_path) as watch:
        path.write_text("kind: Service\nkind: Service\n")
        await watch.until(lambda: bool(watch.source.problems))
        path.write_text("kind: Service\nkind: Service\n# still wrong\n")
        await after_a_look(watch, tmp_path)
        (problem,) = watch.source.problems
        assert problem == f"{path}: line 2, column 1: the key kind is given twice; its last good content stays"
        assert watch.logged("error") == [problem]
        assert watch.logged("info")[1:] == []
        write(path, a_service("web", port=2))
        await watch.until_ports(web=2, marker=1)
        assert not watch.source.problems
        assert watch.logged("info")[1:] == [str(path)]
        assert watch.changed == ["web"]


async def test_a_broken_document_keeps_its_last_good_version_while_its_neighbours_change(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    broken = put(a_service("web"), ("spec", "ports", 0, "port"), 0)
    write(path, a_service("web", port=1), a_service("api", port=1))
    async with watching(path) as watch:
        swap(path, broken, a_service("api", port=2))
        await watch.until_ports(web=1, api=2)
        sentence = (
            f"{path} document 1 (Service default/web): spec.ports[0].port: 0 is not a port number (1..65535)"
            "; its last good version stays"
        )
        assert list(watch.source.problems) == [sentence]
        swap(path, a_service("web", port=4), a_service("api", port=2))
        await watch.until_ports(web=4, api=2)
        assert watch.logged("error") == [sentence]
        assert not watch.source.problems
        assert watch.logged("info")[1:] == [f"{path} (Service default/web)"]
        assert watch.changed == ["api", "web"]


async def test_a_folder_that_cannot_be_read_for_a_while_keeps_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    write(folder / "web.yaml", a_service("web", port=1))
    async with watching(folder) as watch:
        folder.rename(tmp_path / "away")
        folder.symlink_to(folder.name)
        sentence = f"{folder}: cannot be read: Too many levels of symbolic links"
        await watch.until(lambda: watch.source.problems == (sentence,))
        assert not watch.source._has_unconfirmed()
        folder.unlink()
        (tmp_path / "away").rename(folder)
        await watch.until(lambda: not watch.source.problems)
        assert watch.changed == []
        write(folder / "web.yaml", a_service("web", port=2))
        await watch.until_ports(web=2)


async def test_a_folder_that_is_deleted_and_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    write(folder / "web.yaml", a_service("web", port=1))
    async with watching(folder) as watch:
        write(folder / "web.yaml", a_service("web", port=2))
        await watch.until_ports(web=2)
        shutil.rmtree(folder)
        folder.mkdir()  # often with the same inode
        write(folder / "web.yaml", a_service("web", port=3))
        await watch.until_ports(web=3)
        write(folder / "web.yaml", a_service("web", port=4))
        await watch.until_ports(web=4)
        shutil.rmtree(folder)
        await watch.until_ports()
        assert list(watch.source.problems) == [f"{folder}: there is no such file or folder any more"]
        folder.mkdir()
        write(folder / "web.yaml", a_service("web", port=5))
        await watch.until_ports(web=5)
        assert not watch.source.problems
        assert watch.changed == ["web"] * 5


async def test_the_order_of_the_paths_decides(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "web.yaml", a_service("web", port=number + 1))
    async with watching(tmp_path / "b", tmp_path / "a", tmp_path / "b" / "web.yaml") as watch:
        assert watch.ports == {"web": 2}
        assert len(watch.source.problems) == 1


async def test_files_that_are_half_written_cost_no_service(tmp_path: Path) -> None:
    text = as_text(a_service("web"), a_service("api"))
    lengths = {tmp_path / f"{name}.yaml": text.index(name) for name in ("kind", "metadata", "api")}
    for number, path in enumerate(lengths):
        write(path, a_service(f"web-{number}"), a_service(f"api-{number}"))
    texts = {path: path.read_text() for path in lengths}
    async with watching(tmp_path) as watch:
        for path, length in lengths.items():
            path.write_text(texts[path][:length])
        await watch.until(watch.source._has_unconfirmed)
        for path, whole in texts.items():
            path.write_text(whole)
        await watch.until(lambda: not watch.source._has_unconfirmed())
        assert watch.changed == []


class Reread:
    """A source that is read when the test says so: how often and when it is read decides what is believed."""

    def __init__(self, *paths: Path) -> None:
        self.store = Store()
        self.changes = self.store.subscribe(IPFamily.IPV4)
        self.source = ManifestSource(paths, self.store, lambda: None)
        self.read()
        self.changes.take_changes()

    def read(self) -> dict[str, int | None]:
        """The ports of the Services that differ from the start; None is a Service that is gone."""
        self.source.load()
        if not self.store.has_changes:
            return {}
        changes = self.changes.take_changes()
        return {name.name: state.service.ports[0].port if state else None for name, state in changes.items()}


def test_wherever_the_writing_of_a_file_has_got_to_no_service_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    write(path, a_service("web", port=1), a_service("api", port=2))
    text = path.read_text()
    files = Reread(tmp_path)
    for length in range(len(text)):
        path.write_text(text[:length])
        assert files.read() == {}, length
        path.write_text(text)
        assert files.read() == {}, length


def test_a_file_that_drops_an_object_is_believed_when_it_has_stayed_so(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    write(path, a_service("web", port=1), a_service("api", port=2))
    whole = path.read_text()
    files = Reread(tmp_path)
    began = time.monotonic()
    while time.monotonic() - began < DOUBT + 0.1:  # however often it is seen for a moment
        path.write_text("")
        assert files.read() == {}
        path.write_text(whole)
        assert files.read() == {}
    write(path, a_service("api", port=2))
    began = time.monotonic()
    while not (changes := files.read()):
        assert time.monotonic() - began < 8
    assert changes == {"web": None}
    assert time.monotonic() - began >= DOUBT


def test_the_problems_of_a_file_with_unconfirmed_removals_stay(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    write(path, a_service("web"), {"kind": "Service"})
    files = Reread(tmp_path)
    problems = files.source.problems
    assert len(problems) == 1
    path.write_text("")
    with capture_logs() as logs:
        assert files.read() == {}
    assert files.source.problems == problems
    assert [entry["event"] for entry in logs] == ["Manifests read"]


def test_what_changes_no_object_is_no_change_and_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    write(path, SERVICE)
    files = Reread(tmp_path)
    with capture_logs() as logs:
        swap(path, SERVICE)
        assert files.read() == {}
        path.write_text("# a comment\n" + as_text(None, SERVICE))
        assert files.read() == {}
        path.rename(tmp_path / "a.yaml")
        assert files.read() == {}
        (tmp_path / "a.yaml").rename(tmp_path / "z.yaml")
        assert files.read() == {}
    assert {entry["event"] for entry in logs} == {"Manifests read"}
    assert files.source.problems == ()


def test_of_one_object_in_two_files_the_first_counts_until_it_goes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    write(first, a_service("web", port=1))
    files = Reread(tmp_path)
    write(second, a_service("web", port=2))
    assert files.read() == {}
    assert list(files.source.problems) == [
        f"{second} document 1 (Service default/web): {first} document 1 has Service default/web already, "
        "and the first counts"
    ]
    first.unlink()
    assert files.read() == {"web": 2}
    assert not files.source.problems
    write(first, a_service("web", port=3))
    assert files.read() == {"web": 3}
    assert len(files.source.problems) == 1


def test_a_file_that_cannot_be_read_for_a_while_keeps_its_content(tmp_path: Path) -> None:
    """A link to itself cannot be read by root either."""
    path = tmp_path / "web.yaml"
    write(path, a_service("web"))
    files = Reread(tmp_path)
    path.unlink()
    path.symlink_to(path.name)
    with capture_logs() as logs:
        assert files.read() == {}
        sentence = f"{path}: cannot be read: Too many levels of symbolic links; its last good content stays"
        assert list(files.source.problems) == [sentence]
        assert files.read() == {}
        swap(path, a_service("web"))  # the very same text as before
        assert files.read() == {}
    assert not files.source.problems
    assert [entry["event"] for entry in logs if entry["event"] != "Manifests read"] == [sentence, "Mended"]


def test_a_path_that_cannot_be_read_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "nothing.yaml": "no such file or directory",
        "file/web.yaml": "not a directory",
        "loop.yaml": "too many levels of symbolic links",
        "pipe": "neither a file nor a folder",
    }.items():
        path = tmp_path / name
        with pytest.raises(UsageError) as caught:
            ManifestSource([tmp_path, path], Store(), lambda: None).load()
        assert str(caught.value) == f"--manifests: {path}: {reason}"


def test_broken_manifests_at_the_start_are_told_and_the_others_served(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    write(tmp_path / "b.yaml", a_service("web"), {"kind": "Service"})
    with capture_logs() as logs:
        watch = Watch([tmp_path], logs)
        watch.source.load()
    watch.on_change()
    assert watch.ports == {"web": 80}
    assert watch.source.problems == (
        f"{tmp_path / 'a.yaml'}: line 1: the text is not UTF-8",
        f"{tmp_path / 'b.yaml'} document 2 (Service): apiVersion: missing; it should be v1",
    )
    assert watch.logged("error") == list(watch.source.problems)
    assert logs[-1] == {"event": "Manifests read", "files": 2, "objects": 1, "log_level": "info"}


class CountingStore(Store):
    """A Store that counts how many objects it is asked to compare."""

    asked = 0

    def upsert(self, item: ClusterObject, key: ObjectKey | None = None) -> None:
        self.asked += 1
        super().upsert(item, key)


def test_files_that_are_as_they_were_cost_no_comparison_of_objects(tmp_path: Path) -> None:
    store = CountingStore()
    write(tmp_path / "web.yaml", a_service("web", port=1), a_service("api", port=2))
    source = ManifestSource([tmp_path], store, lambda: None)
    source.load()
    assert store.asked == 2
    source.load()
    assert store.asked == 2
    write(tmp_path / "web.yaml", a_service("web", port=1), a_service("api", port=3))
    source.load()
    assert store.asked == 4

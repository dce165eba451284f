"""Following the configuration file, with inotify and without."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import eventually
from userproxy.config import Settings, load
from userproxy.wiring import config_watch
from userproxy.wiring.config_watch import follow_configuration

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

WITHOUT_INOTIFY = """
import asyncio, sys
from pathlib import Path
from userproxy.config import load
from userproxy.wiring import config_watch
config_watch._LOOK = 0.1
file = Path(sys.argv[1])
settings = lambda: load({"config": str(file)}).settings
def applied(latest):
    print("applied", latest.verbosity, flush=True)
    sys.exit(0)
async def main():
    print("following", flush=True)
    await config_watch.follow_configuration(settings(), file, settings, applied)
asyncio.run(main())
"""


def write(file: Path, text: str) -> None:
    file.write_text(HEAD + text)


@asynccontextmanager
async def followed(file: Path) -> AsyncIterator[list[Settings]]:
    """What was applied so far, of a file that is followed."""
    applied: list[Settings] = []
    given = {"config": str(file)}
    following = follow_configuration(load(given).settings, file, lambda: load(given).settings, applied.append)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(following, name="follow")
        yield applied
        task.cancel()


async def until_applied(seen: list[Settings], file: Path, text: str) -> None:
    """Write until it is noticed: the watch begins some time after its task."""
    before = len(seen)
    async with asyncio.timeout(8.0):
        for number in count():
            write(file, f"{text}# {number}\n")
            await asyncio.sleep(1.0)
            if len(seen) > before:
                return


async def test_what_changes_is_applied_and_what_does_not_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.conf"
    write(file, "")
    with capture_logs() as lines:
        async with followed(file) as applied:
            text = "logging: {verbosity: 3}\nbindAddress: 10.0.0.1\nclientConnection: {qps: 50}\n"
            await until_applied(applied, file, text)
            await until_applied(applied, file, "logging: {verbosity: 4}\n")
    assert {settings.verbosity for settings in applied} == {3, 4}
    named = {line["event"]: line.get("fields") or line.get("settings") for line in reversed(lines)}
    assert named["Only a restart changes these"] == ["bindAddress"]
    assert named["Settings without effect in userproxy"] == ["clientConnection.qps"]


@pytest.mark.parametrize("is_file", [False, True])
async def test_a_link_that_leads_elsewhere_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_file: bool
) -> None:
    """Before the file would be read in any case."""
    monkeypatch.setattr(config_watch, "_LOOK", 3600.0)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "config.conf", "")
    link = tmp_path / ("config.conf" if is_file else "folder")
    swing(link, "old/config.conf" if is_file else "old")
    file = link if is_file else link / "config.conf"
    async with followed(file) as applied:
        await until_applied(applied, tmp_path / "old" / "config.conf", "logging: {verbosity: 2}\n")
        write(tmp_path / "new" / "config.conf", "logging: {verbosity: 3}\n")
        swing(link, "new/config.conf" if is_file else "new")
        await eventually(lambda: applied[-1].verbosity == 3)
        write(tmp_path / "new" / "config.conf", "logging: {verbosity: 4}\n")
        await eventually(lambda: applied[-1].verbosity == 4)


def swing(link: Path, target: str) -> None:
    """Have a link lead elsewhere, as an administrator does: it is never missing."""
    (link.parent / "swinging").symlink_to(target)
    (link.parent / "swinging").replace(link)


def test_exhausted_inotify_instances_end_nothing(tmp_path: Path) -> None:
    """In a user namespace of its own the limit is the test's, and nobody else runs into it."""
    file = tmp_path / "config.conf"
    write(file, "")
    limited = ["unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"', "sh"]
    if subprocess.run([*limited, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("user namespaces are not allowed here")
    program = subprocess.Popen(
        [*limited, sys.executable, "-c", WITHOUT_INOTIFY, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "following\n"
        assert "cannot be watched, and is read every ten seconds" in program.stdout.readline()
        write(file, "logging: {verbosity: 3}\n")
        assert "applied 3" in program.stdout.read()
    assert program.returncode == 0

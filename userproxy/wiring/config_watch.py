"""Following the configuration file while the proxy runs."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import structlog

from userproxy.config import Settings
from userproxy.config.reload import changed_in_vain, reload
from userproxy.errors import UsageError
from userproxy.folders import FolderWatch, leading_to

log = structlog.get_logger()

_QUIET = 0.5
_LONGEST_WRITE = 1.6
"""After a change the file is read once nothing has changed for the first time, but at the latest after the second."""

_LOOK = 10.0
"""How often to read the file in any case, in seconds: not every change is reported, and inotify instances may be
exhausted."""


async def follow_configuration(
    settings: Settings, file: Path, read_again: Callable[[], Settings], apply: Callable[[Settings], None]
) -> None:
    """Call `apply` with the settings that may change while running, whenever `file` has changed, until cancelled.

    What needs a restart is logged and stays as it was. While the file is invalid, everything stays as it was.
    """
    content = _read(file)
    async with aclosing(_wakeups(file)) as wakeups:
        async for _ in wakeups:
            latest = _read(file)
            if latest in {content, None}:
                continue
            content = latest
            try:
                wanted = read_again()
            except UsageError as error:
                log.error("The configuration file is wrong, and the old one stays in force", reason=str(error))
                continue
            in_vain = changed_in_vain(settings, wanted)
            settings, needs_restart = reload(settings, wanted)
            apply(settings)
            log.info("Configuration read again", file=str(file))
            if needs_restart:
                log.warning("Only a restart changes these", fields=list(needs_restart))
            if in_vain:
                log.warning("Settings without effect in userproxy", settings=list(in_vain))


async def _wakeups(file: Path) -> AsyncGenerator[None]:
    """Yields when a file may have changed: when something happens in its folder or to a link, and every ten seconds."""
    told = False
    while True:
        try:
            folders = leading_to(file)
            with FolderWatch(folders) as watch:
                stands = True
                yield  # it may have changed before the watch was there
                while stands and leading_to(file) == folders:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK):
                            stands = await watch.changed(_QUIET, _LONGEST_WRITE)
                    told = False
                    yield
        except OSError as error:  # no inotify instance left, or the folder is gone
            if not told:
                text = "The configuration file cannot be watched, and is read every ten seconds"
                log.warning(text, reason=error.strerror or str(error))
            told = True
            await asyncio.sleep(_LOOK)
            yield


def _read(file: Path) -> bytes | None:
    """The file's content, or None while it is being replaced."""
    try:
        return file.read_bytes()
    except OSError:
        return None

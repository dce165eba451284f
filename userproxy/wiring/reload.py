"""Following the configuration file while the proxy runs."""

from collections.abc import Callable
from pathlib import Path

import structlog
from watchfiles import awatch

from userproxy.config import Settings
from userproxy.config.reload import reload
from userproxy.errors import UsageError

log = structlog.get_logger()

_STEP_MS = 500
_LOOK_MS = 10_000
"""How often to look in any case: a ConfigMap's mount changes a link that the kernel reports, others may not."""


async def follow_configuration(
    settings: Settings, file: Path, read_again: Callable[[], Settings], apply: Callable[[Settings], None]
) -> None:
    """Until cancelled, call `apply` with what may change while running whenever `file` says something else.

    What needs a restart is named in the log and stays as it was; so does everything while the file is wrong.
    """
    content = _read(file)
    async for _ in awatch(
        file.parent, watch_filter=None, recursive=False, step=_STEP_MS, rust_timeout=_LOOK_MS, yield_on_timeout=True
    ):
        latest = _read(file)
        if latest in {content, None}:
            continue
        content = latest
        try:
            settings, needs_restart = reload(settings, read_again())
        except UsageError as error:
            log.error("The configuration file is wrong, and the old one stays in force", reason=str(error))
            continue
        apply(settings)
        log.info("Configuration read again", file=str(file))
        if needs_restart:
            log.warning("Only a restart changes these", fields=list(needs_restart))


def _read(file: Path) -> bytes | None:
    """The file's content, or None while it is being replaced."""
    try:
        return file.read_bytes()
    except OSError:
        return None

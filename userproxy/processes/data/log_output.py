"""Where a data process logs to: standard error, which it has from a control process that may have gone."""

import sys
from contextlib import suppress
from typing import TextIO, cast

from userproxy.processes.messages import Logging
from userproxy.telemetry.logging import configure


class _Unheard:
    """Standard error, also once nobody reads it any more: it may be a pipe of whoever has started a control process."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def log_to_whoever_reads(logging: Logging, number: int | None = None) -> None:
    """Log to standard error; `number` is that of the data process."""
    configure(logging.verbosity, logging.log_format, cast(TextIO, _Unheard()), process=number)

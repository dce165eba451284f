"""Structured logs: readable on a terminal, one JSON object a line otherwise.

kube-proxy's verbosity is a number in addition to the level: ``log.debug("...", v=3)`` is printed with ``-v 3``
and above. Levels in use: 0 start-up and what an operator must act on; 1 service ports come and go;
2 syncs, backends not reached; 3 endpoints, skipped Services; 4 what the source delivers; 5 the rules.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Make imports of `module` fail meanwhile, unless it is imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment] # import statements take that for a module that is missing
    try:
        yield
    finally:
        del sys.modules[module]


with _hidden("rich"):  # structlog uses it for tracebacks that we do not want; it is a fifth of the time to import
    import structlog
    from structlog.typing import EventDict, Processor, WrappedLogger


def configure(
    verbosity: int, log_format: str | None = None, stream: TextIO | None = None, process: int | None = None
) -> None:
    """Send all logs to `stream` (standard error by default).

    `log_format` is ``text`` or ``json``; None chooses text for a terminal and JSON otherwise. `process` is the number
    of a data process, which its lines have.
    """
    out = stream if stream is not None else sys.stderr
    text = log_format == "text" or (log_format is None and out.isatty())
    structlog.configure(
        processors=[
            _drop_above(verbosity),
            *([_of_process(process)] if process is not None else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_text_processors(out) if text else _json_processors()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbosity > 0 else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(out),
    )


def _drop_above(verbosity: int) -> Processor:
    def drop(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if event.pop("v", 0) > verbosity:
            raise structlog.DropEvent
        return event

    return drop


def _of_process(number: int) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = number
        return event

    return add


def _text_processors(out: TextIO) -> list[Processor]:
    # Without rich's tracebacks, which show local variables: one may be a token.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=0, exception_formatter=plain)]


def _json_processors() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]

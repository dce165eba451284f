"""Lines of the log that are asked for at each change and nearly never shown.

structlog makes a logger anew for each line, and the fields of a line are text that somebody has to make: together a
tenth of what a changed EndpointSlice cost, for lines of ``-v 3`` and ``-v 4``.
"""

import logging
from typing import Any

import structlog

_WITHOUT_DEBUG = structlog.make_filtering_bound_logger(logging.INFO)


class FrequentLog:
    """A logger that is made anew only where logs are configured anew."""

    __slots__ = ("_log", "_processors", "_shows_debug")

    def __init__(self) -> None:
        self._processors: Any = None
        self._follow()

    @property
    def shows_debug(self) -> bool:
        """Whether lines at level debug may be shown: if not, their fields need not be made."""
        if structlog.get_config()["processors"] is not self._processors:
            self._follow()
        return self._shows_debug

    def debug(self, text: str, **fields: object) -> None:
        """Log a line at level debug."""
        if self.shows_debug:
            self._log.debug(text, **fields)

    def _follow(self) -> None:
        config = structlog.get_config()
        self._processors = config["processors"]
        self._shows_debug = config["wrapper_class"] is not _WITHOUT_DEBUG
        self._log = structlog.get_logger().bind()

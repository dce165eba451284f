"""Views of the buffer that all directions of a process read into."""

from typing import Final

_MOST_PARTS: Final = 1024
"""How many views of the buffer are kept: 200 bytes each."""


class NoMessageError(KeyError):
    """Nothing was read, or as much as there was room for."""


class Parts(dict[int, memoryview]):
    """The beginning of a buffer, by its size: most messages have one of few, and a cut costs more than a look.

    Raises NoMessageError for the size 0 and that of the buffer, so that who sends a message need not ask what it is.
    """

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        super().__init__()
        self._view = view

    def __missing__(self, size: int) -> memoryview:
        if not 0 < size < len(self._view):
            raise NoMessageError(size)
        if len(self) >= _MOST_PARTS:
            self.clear()
        part = self[size] = self._view[:size]
        return part

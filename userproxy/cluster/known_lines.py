"""What each line of a streamed list said the last time, so that one that comes again need not be read again."""

from typing import Generic, TypeVar

from userproxy.pace import emptied

T = TypeVar("T")


class KnownLines(Generic[T]):
    """Values by the lines that they were read from, of the last list that came to its end.

    A new list repeats nearly all lines of the one before, and to know one again takes a tenth of the time of reading
    it. A line is known by its hash, which has 64 bits and is another one in each process (PYTHONHASHSEED), so nobody
    can write an object that is taken for another one. Only values that need no complaint are to be learned.
    """

    def __init__(self) -> None:
        self._known: dict[int, T] = {}
        self._new: dict[int, T] = {}

    def recall(self, line: bytes) -> T | None:
        """What was read from an equal line; None where that is not known."""
        number = hash(line)
        value = self._known.pop(number, None)  # moved, so that all is never freed at once
        if value is None:
            return self._new.get(number)
        self._new[number] = value
        return value

    def learn(self, line: bytes, value: T) -> None:
        """Remember what was read from a line of the list that comes now."""
        self._new[hash(line)] = value

    async def begin(self) -> None:
        """A list begins. What was known of one that broke off is forgotten."""
        await emptied(self._new)

    async def end(self) -> None:
        """The list is whole: lines that were not in it are forgotten."""
        await emptied(self._known)
        self._known, self._new = self._new, self._known

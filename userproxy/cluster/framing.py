"""Whole lines out of a byte stream that is cut anywhere. Pure.

A watch is a stream of JSON objects, one to a line. JSON has no raw line feed inside it, and no byte of a multi-byte
UTF-8 character is one either, so bytes can be split before anybody decodes them.
"""


class LineFramer:
    """Collects bytes and gives back lines as they become whole.

    A line that is not whole when the stream ends was never delivered: whoever reads on from the version of the
    last whole line gets it again.
    """

    def __init__(self) -> None:
        # Pieces of one line are joined once, at its end: appending to bytes would copy a huge line at every cut.
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their line feeds; blank lines are left out."""
        first, *rest = data.split(b"\n")
        self._pieces.append(first)
        if not rest:
            return []
        lines = [b"".join(self._pieces), *rest[:-1]]
        self._pieces = [rest[-1]]
        return [line for line in lines if line.strip()]

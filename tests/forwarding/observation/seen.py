"""What tests have in place of memory that processes share."""


class Seen:
    """What other processes see of an endpoint."""

    def __init__(self) -> None:
        self.total = 0
        self.bytes_down = 0

    def count(self, total: int = 0, bytes_down: int = 0) -> None:
        self.total += total
        self.bytes_down += bytes_down

"""What a ``with`` statement closes at its end."""

from abc import abstractmethod
from types import TracebackType
from typing import Self


class Closing:
    """To be used as a context manager, or closed by hand."""

    @abstractmethod
    def close(self) -> None:
        """Release everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""What can go wrong with the API server, split by what the one who asked does next.

The text of each is the same at every retry, so that an episode is told once.
"""

from userproxy.errors import UserproxyError


class ApiError(UserproxyError):
    """Something is wrong with the API server or the way to it; it is tried again after a pause.

    `retry_after` is the least pause in seconds that the server asks for, or None.
    """

    retry_after: float | None = None


class UnreachableError(ApiError):
    """No answer, or one that broke off."""


class NoConnectionError(UnreachableError):
    """There was no connection over which to ask."""


class SilentError(UnreachableError):
    """The server accepted a request and then sent nothing for too long."""


class RefusedError(ApiError):
    """The server answered with an error; `status` is its HTTP status code."""

    def __init__(self, status: int, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class ExpiredError(ApiError):
    """The server does not know the version we ask for, any longer or yet: only a new list helps."""

"""What is said where the admin API does not change what it is asked to."""

from userproxy.admin.rows import Controls, Planes
from userproxy.errors import UserproxyError


class RefusedError(UserproxyError):
    """The change is not made. The text is a sentence, `status` that of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def controls_of(planes: Planes) -> Controls:
    """What changes are made by. Raises RefusedError where there is nothing."""
    if planes.controls is None:
        raise RefusedError(403, "nothing can be changed here")
    return planes.controls

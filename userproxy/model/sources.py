"""What the sources of Services say of themselves."""

from msgspec import Struct


class WatchReport(Struct, frozen=True, gc=False):
    """Something that Services are learnt from: a resource of the API server, or manifests.

    `synced` is whether all that there was has been read once. `event_age_seconds` is since it has last said anything,
    None if it never has. `reason` is what is wrong now, empty if nothing is.
    """

    resource: str
    synced: bool
    event_age_seconds: float | None
    reason: str = ""

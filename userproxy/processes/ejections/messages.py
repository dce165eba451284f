"""What the control process and a data process tell each other of endpoints that fail."""

from typing import TypeAlias

from msgspec import Struct

from userproxy.model import Endpoint, ListenerName
from userproxy.routing.balancers.ejections import Ejected


class Load(Struct, frozen=True, gc=False, array_like=True):
    """What an endpoint of a listener has done for a data process so far: connections or flows, and bytes of it."""

    listener: ListenerName
    endpoint: Endpoint
    total: int
    bytes_down: int


class Failure(Struct, frozen=True, gc=False, array_like=True):
    """An ejected endpoint has failed, for this reason: a clause."""

    load: Load
    reason: str
    by_reset: bool


class Claimed(Struct, frozen=True, gc=False, array_like=True):
    """An endpoint is ejected, by what all processes have counted and the teller was the last to count."""

    listener: ListenerName
    ejected: Ejected


class Suspect(Struct, frozen=True, gc=False, array_like=True):
    """An endpoint could not be reached and is passed over until then, of CLOCK_MONOTONIC."""

    listener: ListenerName
    endpoint: Endpoint
    until: float


class Failed(Struct, frozen=True, tag="failed"):
    """Endpoints have failed: these are ejected, or were, and these others are passed over for a while."""

    claimed: tuple[Claimed, ...]
    failures: tuple[Failure, ...]
    suspects: tuple[Suspect, ...]


class Tries(Struct, frozen=True, tag="tries"):
    """An ejected endpoint gets a connection, as its trial."""

    load: Load


class Loads(Struct, frozen=True, tag="loads"):
    """What an endpoint has done since, of which a trial goes on."""

    load: Load


class TriesNot(Struct, frozen=True, tag="tries not"):
    """The answer to :class:`Try` with `here` unset: there will be no trial that has not been told of."""

    listener: ListenerName
    endpoint: Endpoint


class KnowsEjected(Struct, frozen=True, tag="knows ejected"):
    """What is ejected, as another control process has said."""

    listener: ListenerName
    ejected: tuple[Ejected, ...]


class PassOver(Struct, frozen=True, tag="pass over"):
    """Other processes could not reach these."""

    suspects: tuple[Suspect, ...]


class Eject(Struct, frozen=True, tag="eject"):
    """An endpoint is ejected, or goes on to be."""

    listener: ListenerName
    ejected: Ejected


class TakeBack(Struct, frozen=True, tag="take back"):
    """An endpoint is ejected no more."""

    listener: ListenerName
    endpoint: Endpoint


class Try(Struct, frozen=True, tag="try"):
    """The next connection that an ejected endpoint would get `here` is its trial, or is not any longer."""

    listener: ListenerName
    endpoint: Endpoint
    here: bool


ToldOfEjections: TypeAlias = PassOver | Eject | TakeBack | Try
TellsOfEjections: TypeAlias = Failed | Tries | Loads | TriesNot | KnowsEjected

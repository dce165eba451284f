"""What control and data process tell each other in a take-over, on either side."""

from typing import TypeAlias

from msgspec import Raw, Struct


class Give(Struct, frozen=True, tag="give"):
    """Another userproxy takes over: tell of so many more parts of what there is, each as :class:`Given`.

    :class:`AllGiven` is the end. The process serves on meanwhile. Answers have the number of the attempt in them: one
    to an earlier attempt, which has been given up, may still be on its way.
    """

    count: int
    attempt: int


class GiveChanged(Struct, frozen=True, tag="give changed"):
    """Tell of what has changed since then, as for :class:`Give`, while the process serves on; there may be several."""

    count: int
    attempt: int


class GiveRest(Struct, frozen=True, tag="give rest"):
    """Tell of what has changed since then, and serve nobody until it is said who goes on.

    With both ends of the token that says so if the control process cannot.
    """

    attempt: int


class ServeOn(Struct, frozen=True, tag="serve on"):
    """The other userproxy has not taken over. It may `linger`, with copies of sockets."""

    lingers: bool = False


class Forsake(Struct, frozen=True, tag="forsake"):
    """All that the process has is another userproxy's now, or still: end without a word to any peer."""


class TakeOver(Struct, frozen=True, tag="take over"):
    """Take in what comes from another userproxy, and touch no socket before :class:`GoOn`."""


class Take(Struct, frozen=True, tag="take"):
    """Take in parts of a data plane, a list of Items, of the other one's data process `plane`; with descriptors."""

    items: Raw
    plane: int


class AskRead(Struct, frozen=True, tag="read?"):
    """Say :class:`HasRead`."""


class AskArrived(Struct, frozen=True, tag="arrived?"):
    """Say :class:`Arrived`."""


class Complete(Struct, frozen=True, tag="complete"):
    """Nothing more is to be taken in: put in order what needs no socket, and say :class:`Arrived`."""


class GoOn(Struct, frozen=True, tag="go on"):
    """All that was taken in is this process's: begin. `first_id` is as in :class:`Start`."""

    first_id: int


class SharesSockets(Struct, frozen=True, tag="shares sockets"):
    """Whether another userproxy has copies of connections' sockets."""

    shared: bool


ToTransfer: TypeAlias = (
    Give
    | GiveChanged
    | GiveRest
    | ServeOn
    | Forsake
    | TakeOver
    | Take
    | AskRead
    | AskArrived
    | Complete
    | GoOn
    | SharesSockets
)


class Given(Struct, frozen=True, tag="given"):
    """Parts of what the process has, a list of Items, with their descriptors."""

    items: Raw
    attempt: int


class AllGiven(Struct, frozen=True, tag="all given"):
    """That was all, or the rest; `failure` says why it cannot be given. `last_id` is as in Last."""

    attempt: int
    last_id: int = 0
    failure: str = ""


class HasRead(Struct, frozen=True, tag="has read"):
    """All that was sent before the question has been dealt with."""


class Arrived(Struct, frozen=True, tag="arrived"):
    """All that was to be taken in was, unless `failure` says why not."""

    failure: str = ""


Transferred: TypeAlias = Given | AllGiven | HasRead | Arrived

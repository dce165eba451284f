"""What the control process and a data process tell each other.

Descriptors are named where they go with a message. A message that needs one and has none came to a process that has
none left: it says so with :class:`NotServed`.
"""

from typing import Final, TypeAlias

from msgspec import Raw, Struct

from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.handover.values import PairsHandedOver
from userproxy.model import Admission, IPFamily, ListenerName, PortalAddress, ReturnPath, Snapshot
from userproxy.model.faults import Fault
from userproxy.model.reports import ListenerFigures, ProcessFigures
from userproxy.processes.ejections.messages import TellsOfEjections, ToldOfEjections
from userproxy.processes.questions import Answer, Enough, Question
from userproxy.processes.transfers import ToTransfer, Transferred


class Start(Struct, frozen=True, tag="start"):
    """The first message: be the data process `number` of `of`, which counts from 1. With the memory of AcceptTurns.

    `first_id` is below the ids of all connections of this process, and above those of all before it.
    """

    number: int
    of: int
    options: ForwardingOptions
    first_id: int


class Outlive(Struct, frozen=True, tag="outlive"):
    """Serve on if the control process goes without a word, and let the next one find this process.

    Where it listens then has a name that begins with `path`. If that is empty, end instead.
    """

    path: str


class Claim(Struct, frozen=True, tag="claim"):
    """Another control process asks for what there is: :class:`Inherited` and then :class:`Estate`."""

    protocol: int


class Resume(Struct, frozen=True, tag="resume"):
    """Follow this control process from now on, which tells everything anew."""


class Retire(Struct, frozen=True, tag="retire"):
    """Drain within `seconds`, and end: nothing of this process is of use to the control process."""

    seconds: float


class Logging(Struct, frozen=True, tag="logging"):
    """How to log from now on."""

    verbosity: int
    log_format: str | None


class Adopt(Struct, frozen=True, tag="adopt"):
    """Serve a listener, whose number is `number`, from now on, or go on to do so with these sockets.

    `members` are the numbers of those that come with this, of a group's: none where only portals lead to the listener,
    and one, which is 0, where it has one for all processes. A snapshot follows.
    """

    listener: ListenerName
    number: int
    members: tuple[int, ...]


class Elsewhere(Struct, frozen=True, tag="elsewhere"):
    """Another data process serves a listener alone, at this address: serve it no longer, and dial no such endpoint."""

    listener: ListenerName
    host: str
    port: int


class Update(Struct, frozen=True, tag="update"):
    """Treat new clients of a listener by a snapshot.

    `slot` is where all processes count the clients of its service port, if that has limits or holds clients, and there
    is room. `cells` are those in which all processes count failures of the snapshot's endpoints, if it ejects: -1 where
    there is no room.
    """

    snapshot: Snapshot
    slot: int | None = None
    cells: tuple[int, ...] = ()


class Told(Struct, frozen=True):
    """All that a data process is to know of a listener."""

    listener: Adopt | Elsewhere
    update: Update


class AdoptSeveral(Struct, frozen=True, tag="adopt several"):
    """Several listeners in one message, with the sockets of all: each part is a :class:`Told`, encoded by itself.

    For a process that serves nobody yet. What is the same for several processes is encoded once.
    """

    parts: tuple[Raw, ...]


class Close(Struct, frozen=True, tag="close"):
    """Close a listener, whoever serves it; connections go on.

    With `frees_slot` the clients of its service port are counted together no longer: the slot may be another's soon.
    With `has_successor` clients of UDP who have just asked are answered first; what they send from now on is another
    userproxy's to take.
    """

    listener: ListenerName
    frees_slot: bool = False
    has_successor: bool = False


class AdoptPortal(Struct, frozen=True, tag="adopt portal"):
    """Serve a portal from its socket, which comes with this, or from those `members` of its group of `size`."""

    address: PortalAddress
    admission: Admission
    members: tuple[int, ...] = (0,)
    size: int = 1


class FollowPortal(Struct, frozen=True, tag="follow portal"):
    """Treat new clients of a portal by another admission, of the same service port."""

    address: PortalAddress
    admission: Admission


class Deliver(Struct, frozen=True, tag="deliver"):
    """Serve clients of a UDP listener whose datagrams have come to a socket that is another process's.

    Each is two values as :meth:`~userproxy.forwarding.udp.datagrams.Inbox.put` takes them. With a `portal` they came
    there.
    """

    listener: ListenerName
    portal: PortalAddress | None
    datagrams: tuple[tuple[bytes, bytes], ...]


class LeavePortal(Struct, frozen=True, tag="leave portal"):
    """Serve a portal no longer."""

    address: PortalAddress


class FollowReturnPath(Struct, frozen=True, tag="follow return path"):
    """Which clients' addresses this host can keep has changed. `number` is another one for each path that is told."""

    path: ReturnPath
    number: int


class Learned(Struct, frozen=True, tag="learned"):
    """What a data process has found out of answers to clients' addresses, in either direction.

    That was with the family's path of this number, and says nothing with another one.
    """

    number: int
    pairs: PairsHandedOver


class Keep(Struct, frozen=True, tag="keep"):
    """Hold copies of the descriptors that come with this, in place of a family's earlier ones, without using them.

    What goes with its last copy then outlives the control process: tables of nf_tables that have an owner.
    """

    family: IPFamily


class LetGo(Struct, frozen=True, tag="let go"):
    """Hold what :class:`Keep` has brought of a family only as long as a connection or flow keeps its client's address.

    No new one does.
    """

    family: IPFamily


class CloseUnasked(Struct, frozen=True, tag="close unasked"):
    """Close the listeners of a family that the control process before had, and that this one has not told of."""

    family: IPFamily


class Settled(Struct, frozen=True, tag="settled"):
    """This was all that there is; from now on come changes."""


class Look(Struct, frozen=True, tag="look"):
    """Look at all sockets: a data process has ended."""


class Drain(Struct, frozen=True, tag="drain"):
    """Drain within `seconds`, then say :class:`Drained`."""

    seconds: float


class Reset(Struct, frozen=True, tag="reset"):
    """End all connections with a RST."""


class Leave(Struct, frozen=True, tag="leave"):
    """End the process."""


class PutFaults(Struct, frozen=True, tag="put faults"):
    """Have connections suffer these faults and no others."""

    faults: tuple[Fault, ...]


ToData: TypeAlias = (
    Start
    | Outlive
    | Claim
    | Resume
    | Retire
    | Logging
    | Adopt
    | AdoptSeveral
    | Elsewhere
    | Update
    | Close
    | AdoptPortal
    | FollowPortal
    | LeavePortal
    | Deliver
    | FollowReturnPath
    | Learned
    | CloseUnasked
    | Keep
    | LetGo
    | Settled
    | Look
    | ToldOfEjections
    | PutFaults
    | Drain
    | Reset
    | Leave
    | ToTransfer
    | Enough
    | Question
)


class Ready(Struct, frozen=True, tag="ready"):
    """The process waits for :class:`Start`."""


class Pulse(Struct, frozen=True, tag="pulse"):
    """How many connections and flows there are now: told a few times a second where that changes, else once a second.

    A process that says nothing for some seconds hangs.
    """

    connections: int
    flows: int


class Counted(Struct, frozen=True, tag="counted"):
    """What has been counted of late, told unasked: it is all that is known of a process that ends without a word.

    The figures of listeners that are open, of those that are closed, and of the process: only what has changed.
    """

    open: tuple[ListenerFigures, ...] = ()
    closed: tuple[ListenerFigures, ...] = ()
    process: ProcessFigures | None = None


class NotServed(Struct, frozen=True, tag="not served"):
    """A listener cannot be served by this process; others may."""

    listener: ListenerName
    reason: str


class PortalNotServed(Struct, frozen=True, tag="portal not served"):
    """A portal cannot be served by this process; others may."""

    address: PortalAddress
    reason: str


class Drained(Struct, frozen=True, tag="drained"):
    """The drain is over; so many connections were reset."""

    reset: int


class Inherited(Struct, frozen=True, tag="inherited"):
    """A listener's socket, which comes with this, its number in a group, and the address that it is bound to.

    Or that of a UDP portal, of `size` in its group; then the listener is one of those whose clients come there.
    """

    listener: ListenerName
    host: str
    member: int
    portal: PortalAddress | None = None
    size: int = 1


class Estate(Struct, frozen=True, tag="estate"):
    """That was all of a process that its control process has left. With the memory of AcceptTurns.

    `start` is what it was once told, and `last_number` the highest number that a listener has had.
    """

    start: Start
    last_number: int


class Refused(Struct, frozen=True, tag="refused"):
    """This process cannot be adopted."""

    reason: str


PROTOCOL: Final = 7
"""Of these messages. Processes of another one are left alone: they serve until their clients have gone."""

Reported: TypeAlias = (
    Ready | Answer | Pulse | Counted | Learned | NotServed | PortalNotServed | Drained | Inherited | Estate | Refused
)
FromData: TypeAlias = Reported | Transferred | TellsOfEjections

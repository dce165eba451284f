"""The parts of a data plane that a hand-over has to do with."""

from collections.abc import Callable, MutableMapping
from typing import TypeAlias

from msgspec import Struct

from userproxy.forwarding.affinity_tables import AffinityTables
from userproxy.forwarding.handover.noting import SnapshotWatch
from userproxy.forwarding.observation.closed import ClosedListeners
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.portal_listeners import PortalListeners
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.tcp.portal import PortlessTcpListener
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.forwarding.udp.portal import PortlessUdpListener
from userproxy.model import ListenerName, Snapshot
from userproxy.routing.balancer import Balancer

AnyListener: TypeAlias = TcpListener | UdpListener | PortlessTcpListener | PortlessUdpListener


class Parts(Struct, frozen=True):
    """The parts of one data plane.

    `closed` are listeners that were closed not long ago. `balancer` makes one for a listener, and with `portals_only`
    clients of a listener's own port are refused. Who is in `snapshot_watches` is told of all changed `snapshots`.
    """

    tcp: TcpPlane
    udp: UdpPlane
    recorder: Recorder
    listeners: MutableMapping[ListenerName, AnyListener]
    snapshots: MutableMapping[ListenerName, Snapshot]
    portals: PortalListeners
    affinity: AffinityTables
    balancer: Callable[[], Balancer]
    portals_only: bool
    closed: ClosedListeners
    snapshot_watches: list[SnapshotWatch]

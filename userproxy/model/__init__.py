"""The vocabulary as frozen values, which every other package may import.

Every value here is a :class:`msgspec.Struct`: immutable, hashable and serialisable, because snapshots
travel between processes. Addresses are canonical text (``ipaddress`` form); whoever creates a value
has validated it. A value is made of values that were there before it, so none is part of a cycle and the garbage
collector need not know them (``gc=False``): walking those of 10,000 Services would hold up traffic for 0.1 s.
"""

from userproxy.addresses import IPFamily
from userproxy.model.balancing import BalancerName, Ejection
from userproxy.model.client_address import (
    OTHERS_PORTS,
    OWN_PORTS,
    PODS_PORTS,
    ClientAddress,
    DirectNetwork,
    ProxyProtocol,
    ReturnPath,
)
from userproxy.model.cluster import (
    EndpointSlice,
    Hints,
    Node,
    PortSpec,
    Protocol,
    Service,
    ServiceName,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    SlicePort,
)
from userproxy.model.limits import Limits, Overflow
from userproxy.model.problems import Problem, ProblemKind
from userproxy.model.snapshots import (
    Admission,
    AdmissionRule,
    BalancerAccess,
    Endpoint,
    ListenerName,
    PortalAddress,
    Snapshot,
    TrafficClass,
    Verdict,
)
from userproxy.model.wanted import (
    ConntrackSettings,
    Differences,
    HealthCheck,
    LocalTraffic,
    Portal,
    PortalBinding,
    PortalKind,
    PortalSync,
    Route,
    ServicePort,
    Target,
    local_ports_of,
)

__all__ = [
    "OTHERS_PORTS",
    "OWN_PORTS",
    "PODS_PORTS",
    "Admission",
    "AdmissionRule",
    "BalancerAccess",
    "BalancerName",
    "ClientAddress",
    "ConntrackSettings",
    "Differences",
    "DirectNetwork",
    "Ejection",
    "Endpoint",
    "EndpointSlice",
    "HealthCheck",
    "Hints",
    "IPFamily",
    "Limits",
    "ListenerName",
    "LocalTraffic",
    "Node",
    "Overflow",
    "PortSpec",
    "Portal",
    "PortalAddress",
    "PortalBinding",
    "PortalKind",
    "PortalSync",
    "Problem",
    "ProblemKind",
    "Protocol",
    "ProxyProtocol",
    "ReturnPath",
    "Route",
    "Service",
    "ServiceName",
    "ServicePort",
    "ServicePortName",
    "ServiceState",
    "SliceEndpoint",
    "SlicePort",
    "Snapshot",
    "Target",
    "TrafficClass",
    "Verdict",
    "local_ports_of",
]

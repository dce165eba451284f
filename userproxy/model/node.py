"""Settings of this node that more than one package knows."""

from msgspec import Struct


class LocalTraffic(Struct, frozen=True, gc=False):
    """How packets of this node's Pods are recognised (``--detect-local-mode``); nothing is, if all are empty.

    ``networks`` are their source addresses; ``interface`` is where they arrive, as iptables writes it (``cbr0``, or
    ``veth+`` for a prefix).
    """

    networks: tuple[str, ...] = ()
    interface: str = ""


class ConntrackSettings(Struct, frozen=True, kw_only=True, gc=False):
    """What is asked of the kernel's connection tracking, by kube-proxy's names and with its defaults.

    Time limits are seconds. Zero leaves a value as it is, and so does False; `min` counts beside `max_per_core` alone.
    """

    max_per_core: int = 32768
    min: int = 131072
    tcp_established_timeout: float = 86400
    tcp_close_wait_timeout: float = 3600
    tcp_be_liberal: bool = False
    udp_timeout: float = 0
    udp_stream_timeout: float = 0

"""The data plane's figures among the metrics."""

from userproxy.model import IPFamily, Protocol
from userproxy.telemetry.data_plane import DataPlaneCollector
from userproxy.telemetry.metrics import Metrics


class DataPlane:
    """What a forwarder counts."""

    def __init__(self) -> None:
        self.handler_failures = {Protocol.TCP: 0, Protocol.UDP: 0}
        self.evicted = {Protocol.TCP: 0, Protocol.UDP: 0}


async def samples(metrics: Metrics) -> list[str]:
    return [
        line
        for line in (await metrics.render()).decode().splitlines()
        if line.startswith(("userproxy_h", "userproxy_e"))
    ]


async def test_what_is_counted_by_protocol_is_shown_from_zero_on() -> None:
    data_plane, metrics = DataPlane(), Metrics("0.1.0", [IPFamily.IPV4])
    metrics.registry.register(DataPlaneCollector(data_plane))
    names = ("userproxy_handler_failures_total", "userproxy_evicted_total")
    at_first = [f'{name}{{protocol="{protocol}"}} 0.0' for name in names for protocol in ("TCP", "UDP")]
    assert await samples(metrics) == at_first
    data_plane.handler_failures[Protocol.UDP] = 7
    data_plane.evicted[Protocol.TCP] = 8
    assert (await samples(metrics))[1:3] == [f'{names[0]}{{protocol="UDP"}} 7.0', f'{names[1]}{{protocol="TCP"}} 8.0']

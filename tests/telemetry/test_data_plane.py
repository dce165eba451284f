"""The data plane's figures among the metrics."""

from userproxy.model import IPFamily, Protocol
from userproxy.telemetry.data_plane import DataPlaneCollector
from userproxy.telemetry.metrics import Metrics


class DataPlane:
    """What a forwarder counts."""

    def __init__(self) -> None:
        self.handler_failures = {Protocol.TCP: 0, Protocol.UDP: 0}


async def samples(metrics: Metrics) -> list[str]:
    return [line for line in (await metrics.render()).decode().splitlines() if line.startswith("userproxy_")]


async def test_failures_of_handlers_are_counted_from_zero_on_for_each_protocol() -> None:
    data_plane, metrics = DataPlane(), Metrics("0.1.0", [IPFamily.IPV4])
    metrics.registry.register(DataPlaneCollector(data_plane))
    name = "userproxy_handler_failures_total"
    assert await samples(metrics) == [f'{name}{{protocol="TCP"}} 0.0', f'{name}{{protocol="UDP"}} 0.0']
    data_plane.handler_failures[Protocol.UDP] = 7
    assert f'{name}{{protocol="UDP"}} 7.0' in await samples(metrics)

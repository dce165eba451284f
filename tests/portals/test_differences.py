"""Each driver says how what stands differs from what is wanted, and changes nothing for that."""

from collections.abc import Callable

import pytest

from tests.portals.conftest import Network, shell, tools_of, use, with_addresses
from tests.portals.examples import EVERYWHERE, cluster_ip_binding
from userproxy.model import Admission, Differences, IPFamily, PortalAddress
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import DriverOptions
from userproxy.portals.iptables.variant import Variant


class Listeners:
    """Listens nowhere, and says that it does."""

    def serve_portal(self, address: PortalAddress, admission: Admission) -> None: ...

    def leave_portal(self, address: PortalAddress) -> None: ...


def _other(ip: str) -> str:
    return "192.0.2.99" if "." in ip else "2001:db8::99"


def _iptables(programs: str, ip: str) -> None:
    rules = shell(f"{programs}-save", "-t", "nat").splitlines()
    (ours,) = [each.removeprefix("-A ") for each in rules if ip in each and each.startswith("-A KUBE-PORTALS-HOST")]
    text = f"*nat\n-D {ours}\n-A KUBE-PORTALS-HOST -d {_other(ip)} -j RETURN\nCOMMIT\n"
    shell(f"{programs}-restore", "--noflush", text=text)


def _nftables(programs: str, ip: str) -> None:
    table = "ip userproxy" if "." in ip else "ip6 userproxy"
    shell("nft", f"delete element {table} portals {{ {ip} . tcp . 80 }}")
    shell("nft", f"add element {table} portals {{ {_other(ip)} . tcp . 81 : 1234 }}")


def _local(programs: str, ip: str) -> None:
    family = "-4" if "." in ip else "-6"
    listed = shell("ip", family, "route", "show", "table", "local", "proto", "all")
    (route,) = [line.split() for line in listed.splitlines() if f" {ip} " in line]
    shell("ip", family, "route", "del", "table", "local", *route)
    route[route.index(ip)] = _other(ip)
    shell("ip", family, "route", "add", "table", "local", *route)


BREAKS: dict[str, Callable[[str, str], None]] = {
    "iptables": _iptables,
    "nftables": _nftables,
    "local": _local,
}


@pytest.mark.parametrize("family", list(IPFamily))
@pytest.mark.parametrize("driver", [*Variant, "nftables", "local"])
def test_what_others_break_is_seen_and_left(network: Network, driver: str, family: IPFamily) -> None:
    name, programs = driver, ""
    if driver in list(Variant):
        name = "iptables"
        programs = f"{'ip' if family is IPFamily.IPV4 else 'ip6'}tables-{driver}"
        use(network, tools_of(family, Variant(driver)))
    with_addresses(network)
    bindings = [cluster_ip_binding(number, 20_000 + number, family) for number in (1, 2)]
    ip = bindings[0].portals[0].ip

    async def scenario() -> list[Differences]:
        made = DRIVERS[name](DriverOptions(family, EVERYWHERE[family]))
        made.listen_with(Listeners())
        try:
            await made.sync(bindings)
            found = [await made.differences()]
            BREAKS[name](programs, ip)  # in the thread of this network
            found += [await made.differences(), await made.differences()]
            await made.sync([], verify=True)
            return [*found, await made.differences()]
        finally:
            await made.close()

    before, broken, again, repaired = network.run_loop(scenario)
    assert before == repaired == Differences()
    assert broken == again
    (missing,), (left_over,) = broken.missing, broken.left_over
    assert ip in missing
    assert "99" in left_over

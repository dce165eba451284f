"""The way back to clients' addresses, made by hand: for tests of what forwarding does with it."""

from userproxy.addresses import IPFamily, network_of
from userproxy.demo.hosts import Host
from userproxy.demo.network import Node
from userproxy.model import DirectNetwork

_MARK = "0x1000/0x1000"
_TABLE = "100"

_RULES = """
table inet answers {
    chain prerouting {
        type filter hook prerouting priority -90
        socket transparent 1 meta mark set meta mark | 0x1000
    }
}
"""


def lead_answers_here(host: Host) -> None:
    """Have what is addressed to a socket of `host` reach it, though the address is not the host's."""
    host.run(["nft", "-f", "-"], text=_RULES)
    for family, everything in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        host.run(["ip", family, "rule", "add", "fwmark", _MARK, "lookup", _TABLE])
        host.run(["ip", family, "route", "add", "local", everything, "dev", "lo", "table", _TABLE])


def pod_networks(node: Node, family: IPFamily) -> tuple[DirectNetwork, ...]:
    """Each of the routed Pods of a node as a network of its own, which is what its routing table has."""
    addresses = [pod.address6 if family is IPFamily.IPV6 else pod.address for pod in node.pods]
    return tuple(
        DirectNetwork(network_of(address), f"cali{number}", of_pods=True) for number, address in enumerate(addresses)
    )

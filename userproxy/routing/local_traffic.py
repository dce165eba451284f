"""How packets of this node's Pods are recognised (``--detect-local-mode``)."""

import ipaddress
from collections.abc import Iterable

from userproxy.addresses import of_family
from userproxy.model import IPFamily, LocalTraffic


def local_traffic(
    mode: str,
    cluster_cidrs: Iterable[str],
    pod_cidrs: Iterable[str],
    bridge_interface: str,
    interface_name_prefix: str,
    family: IPFamily,
) -> LocalTraffic:
    """What tells packets of this node's Pods from others, in kube-proxy's ``detectLocalMode`` `mode`.

    ClusterCIDR and NodeCIDR take the first network of `family`, from `cluster_cidrs` or from the Node's `pod_cidrs`.
    What the mode needs may be missing: then nothing is recognised. Raises ValueError where a network is none.
    """
    match mode:
        case "ClusterCIDR":
            return _from_network(cluster_cidrs, family)
        case "NodeCIDR":
            return _from_network(pod_cidrs, family)
        case "BridgeInterface":
            return LocalTraffic(interface=bridge_interface)
        case "InterfaceNamePrefix" if interface_name_prefix:
            return LocalTraffic(interface=f"{interface_name_prefix}+")
        case _:
            return LocalTraffic()


def _from_network(cidrs: Iterable[str], family: IPFamily) -> LocalTraffic:
    first = of_family(cidrs, family)[:1]
    return LocalTraffic(networks=tuple(str(ipaddress.ip_network(cidr, strict=False)) for cidr in first))

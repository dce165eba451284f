"""How a family looks at Services from its node."""

import pytest

from tests.proxier.family.test_proxy import NODE, V4, V6
from userproxy.addresses import IPFamily
from userproxy.model import LocalTraffic, Node
from userproxy.proxier.family.options import FamilyOptions, node_view


@pytest.mark.parametrize(
    ("family", "ip", "network"), [(V4, "192.0.2.10", "10.244.1.0/24"), (V6, "2001:db8::10", "fd00:1::/64")]
)
def test_a_family_sees_its_own_part_of_the_node(family: IPFamily, ip: str, network: str) -> None:
    options = FamilyOptions(proxy_name="mine", external_ips_allowed=False, local_mode="NodeCIDR")
    scope, traffic = node_view(family, options, NODE)
    assert (scope.family, scope.node_ips, scope.node_known) == (family, (ip,), True)
    assert (scope.locality.node, scope.locality.zone) == ("node-1", "a")
    assert (scope.proxy_name, scope.external_ips_allowed) == ("mine", False)
    assert traffic == LocalTraffic(networks=(network,))
    assert not node_view(family, options, Node("node-1"))[0].node_known

"""Which text is of which family."""

from userproxy.model import IPFamily
from userproxy.routing.families import of_family

BOTH = ("10.0.0.1", "fd00::/8", "::", "192.0.2.0/24", "::ffff:1.2.3.4")


def test_each_family_has_its_own_in_their_order() -> None:
    assert of_family(BOTH, IPFamily.IPV4) == ["10.0.0.1", "192.0.2.0/24"]
    assert of_family(BOTH, IPFamily.IPV6) == ["fd00::/8", "::", "::ffff:1.2.3.4"]

"""What of the problems becomes Events."""

from userproxy.model import Problem, ProblemKind, ServiceName
from userproxy.wiring.source import _told_of


def test_of_thousands_of_services_without_a_descriptor_a_few_are_told_always_the_same_ones() -> None:
    crowded = [
        Problem(ServiceName("shop", f"s{n:05}"), ProblemKind.OUT_OF_DESCRIPTORS, f"shop/s{n:05}: not served")
        for n in range(20_000)
    ]
    taken = Problem(ServiceName("shop", "web"), ProblemKind.PORT_CONFLICT, "shop/web: taken")
    assert set(_told_of([*crowded[::-1], taken])) == {*crowded[:10], taken}
    assert set(_told_of(crowded[5:])) == {*crowded[5:15]}

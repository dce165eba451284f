"""When rules say REDIRECT and when DNAT, without a kernel."""

from collections.abc import Sequence

from structlog.testing import capture_logs

from userproxy.portals.iptables.redirection import Redirection


class Looks:
    """Looks at links at times of a test's own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._redirection = Redirection(lambda: self.now)

    def works(self, seconds_later: float, *without_address: str) -> bool:
        self.now += seconds_later
        self._redirection.look(without_address, "IPv4")
        return self._redirection.works


def test_dnat_stays_for_ten_minutes_after_the_last_link_without_an_address() -> None:
    looks = Looks()
    assert Redirection().works
    assert looks.works(0)
    assert not looks.works(0, "cali1")
    assert not looks.works(599, "cali2")
    assert not looks.works(599)
    assert looks.works(1)
    assert not looks.works(1, "cali3")


def test_a_change_is_told_once_and_names_a_few_links() -> None:
    looks = Looks()
    many: Sequence[str] = [f"cali{number}" for number in range(250)]
    with capture_logs() as logs:
        for _ in range(3):
            looks.works(0, *many)
        looks.works(600)
        looks.works(0)
    assert [record["event"].split()[2] for record in logs] == ["DNAT", "REDIRECT"]
    assert (logs[0]["links"], logs[0]["number"]) == ("cali0, cali1, cali2", 250)

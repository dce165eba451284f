"""What the log says of rules that were written."""

import pytest
from structlog.testing import capture_logs

from userproxy.model import Endpoint, IPFamily, Portal, PortalKind
from userproxy.proxier.sync_log import Listed, RulesLog

COUNTS = {"nat": 4, "filter": 1}


def test_the_first_time_and_repairs_are_told_to_everybody() -> None:
    rules_log = RulesLog(IPFamily.IPV4)
    with capture_logs() as logs:
        rules_log.written(COUNTS, 0.1234567, service_ports=2, removed=0, differed=True)
        rules_log.written(COUNTS, 0.1, service_ports=0, removed=0, differed=False)
        rules_log.written(COUNTS, 0.1, service_ports=1, removed=0, differed=False)
        rules_log.written(COUNTS, 0.1, service_ports=0, removed=1, differed=True)
        rules_log.written(COUNTS, 0.2, service_ports=0, removed=0, differed=True)
    first, came, went, repaired = logs
    assert first == {
        "event": "Rules written", "log_level": "info", "family": "IPv4",
        "service_ports": 2, "rules": 5, "seconds": 0.123,
    }  # fmt: skip
    assert [(each["log_level"], each["service_ports"], each["removed"]) for each in (came, went)] == [
        ("debug", 1, 0),
        ("debug", 0, 1),
    ]
    assert (repaired["event"], repaired["log_level"], repaired["rules"], repaired["seconds"]) == (
        "Rules repaired, because something else had changed them", "info", 5, 0.2,
    )  # fmt: skip


def test_rules_that_are_right_already_are_no_news_nor_are_those_of_a_driver_that_has_none() -> None:
    with capture_logs() as logs:
        RulesLog(IPFamily.IPV4).written(COUNTS, 0.1, service_ports=0, removed=0, differed=False)
        RulesLog(IPFamily.IPV4).written({}, 0.1, service_ports=1, removed=0, differed=False)
    assert logs == []


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        (Listed(()), ""),
        (Listed((Endpoint("10.0.0.1", 80), Endpoint("fd00::1", 80))), "10.0.0.1:80 [fd00::1]:80"),
        (
            Listed((Portal(PortalKind.CLUSTER_IP, "10.96.0.1", 80), Portal(PortalKind.NODE_PORT, "", 30080)), ", "),
            "cluster IP 10.96.0.1:80, node port 30080",
        ),
    ],
)
def test_lists(listed: Listed, text: str) -> None:
    assert repr(listed) == text

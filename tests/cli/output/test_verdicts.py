"""What is wrong, by a proxy's status."""

from typing import Any

import pytest

from tests.cli.items import family, process, status
from userproxy.cli.output.verdicts import complaints, status_lines

TEXT = """\
userproxy 1.2.3 on node-1, Services from /etc/services
All is well.

FAMILY   DRIVER     STATE    SINCE   PENDING
IPv4     nftables   synced   17m     0

WATCH      STATE    LAST EVENT
services   synced   3s

PROCESS   LOOP LAG   DESCRIPTORS   CONNECTIONS   FLOWS   PIPES
42        2.10ms     30/1024       5             1       0"""

AGES = {"2026-11-21T22:00:00Z": 1054.0}


def test_a_proxy_that_is_well() -> None:
    assert "\n".join(status_lines(status(), AGES)) == TEXT
    assert list(complaints(status())) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"families": [family(), family(family="IPv6", in_sync=False, since=None, reason="no ip6tables")]},
            "IPv6: portals are not in sync: no ip6tables",
        ),
        (
            {"watches": [{"resource": "nodes", "synced": False, "last_event_age_seconds": None, "reason": ""}]},
            "nodes: the source does not tell of changes",
        ),
        (
            {"processes": [process(descriptors=930)]},
            "process 42 has 930 of 1024 descriptors in use: raise its limit of open files",
        ),
        (
            {"processes": [process(loop_lag_seconds=1.25)]},
            "process 42 has kept clients waiting for 1.25s: it has too little CPU",
        ),
        (
            {"problems": 2},
            "2 problems of Services: `userproxy describe service NS/NAME` tells those of one, Events and the log all",
        ),
        ({"healthy": False}, "/healthz answers 503: load balancers send their clients to other nodes"),
    ],
    ids=["family", "watch", "descriptors", "lag", "problems", "health"],
)
def test_what_is_wrong_is_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    found = status(**fields)
    assert list(complaints(found)) == [sentence]
    assert status_lines(found, AGES)[1:3] == ["Something is wrong:", f"  {sentence}"]

"""The phases of a start in the log."""

from typing import Any

import pytest

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)
def test_phases_are_told_at_verbosity_1(lab: Lab) -> None:
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    proxy = lab.node.start_userproxy("-v", "1")

    def phases() -> list[dict[str, Any]]:
        return [record for record in proxy.records if record["event"] == "Start"]

    eventually(lambda: len(phases()) == 4, 30, "both families are served")
    source = "manifests read" if lab.manifests.flags[0] == "--manifests" else "source opened"
    told = [each["phase"] for each in phases()]
    assert told == ["program and settings loaded", source, "portals stand", "portals stand"]
    assert {each["family"] for each in phases() if "family" in each} == {"IPv4", "IPv6"}
    for figure in ("seconds", "cpu_seconds"):
        values = [each[figure] for each in phases()]
        assert 0 < values[0] < values[-1] == max(values)

"""The same proxy on each event loop."""

import pytest

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from userproxy.demo.traffic import fetch_many

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
def test_serves_and_stops(lab: Lab, event_loop: str) -> None:
    lab.serve_http()
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    proxy = lab.node.start_userproxy("--event-loop", event_loop)
    lab.node.wait_for_rules("default/web:http")
    tally = fetch_many(lab.client, ("10.96.0.10", 80), 60)
    assert not tally.failures
    assert len(tally.pods) == 3
    assert proxy.terminate() == 0
    lab.node.wait_for_no_rules()


def test_without_uvloop_asyncio_serves_and_says_so(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    # A uvloop that cannot be imported, found before the installed one.
    broken = lab.manifests.directory.parent / "broken"
    broken.mkdir()
    (broken / "uvloop.py").write_text("raise ImportError('no such library')")
    proxy = lab.node.start_userproxy(env={"PYTHONPATH": str(broken)})
    assert proxy.wait_log("uvloop cannot be loaded")["level"] == "warning"
    lab.node.wait_for_rules("default/web:http")
    assert not fetch_many(lab.client, ("10.96.0.10", 80), 30).failures

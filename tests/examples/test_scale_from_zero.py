"""The example of a controller that wakes Services: short, and it does so in time for the first client."""

import sys
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Lab
from userproxy.demo.programs import Program

EXAMPLE = Path(__file__).parents[2] / "examples" / "scale_from_zero" / "controller.py"
WEB = ("10.96.0.10", 80)


def test_it_is_about_sixty_lines() -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(lines) <= 66


@pytest.mark.e2e
@pytest.mark.parametrize("lab", ["api"], indirect=True)
def test_pods_come_because_a_client_waits_for_them(lab: Lab, tmp_path: Path) -> None:
    lab.manifests.service("web", cluster_ip=WEB[0], annotations={"userproxy.io/hold": "10m"})
    lab.node.start_userproxy(*QUICK)
    lab.node.wait_for_portal(*WEB)
    token = tmp_path / "token"
    token.write_text(lab.api.token)
    assert lab.api.files is not None
    access = ["--server", lab.api.url, "--ca", str(lab.api.files.ca), "--token-file", str(token), "--pause", "1"]
    scale = ["echo", "{namespace}/{name} is scaled"]
    controller = lab.enter(Program(lab.node, [sys.executable, str(EXAMPLE), *access, *scale]))
    with lab.client.connect(WEB, 60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        controller.wait_line("default/web is scaled")
        lab.serve_http()
        lab.manifests.slice("web", lab.pods)
        assert client.recv(100).startswith(b"HTTP/1.1 200")

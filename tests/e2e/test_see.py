"""What the commands say of a running userproxy that has had real traffic."""

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Backend, Port
from tests.lab.proxy import CONTROL, WORKERS, RunningProxy, installed_command
from userproxy.demo.programs import Program
from userproxy.demo.traffic import ask, fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB, DNS = "10.96.0.10", "10.96.0.53"
REQUESTS = 12


class Seen:
    """A proxy whose Services `default/web`, of three Pods of which one refuses, and `kube-system/dns` had clients."""

    def __init__(self, lab: Lab, proxy: RunningProxy, kept: socket.socket) -> None:
        self.lab = lab
        self.proxy = proxy
        self.kept = kept

    def run(self, *arguments: str, code: int = 0) -> str:
        """What a command prints, which says nothing else and ends as expected."""
        done = self.lab.node.userproxy(*arguments, check=False)
        assert (done.returncode, done.stderr) == (code, ""), (arguments, done)
        return done.stdout

    def items(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """The items of a list as JSON."""
        found: list[dict[str, Any]] = json.loads(self.run("get", kind, *arguments, "-o", "json"))["items"]
        return found


@pytest.fixture(scope="module")
def seen(shared_lab: Lab) -> Iterator[Seen]:
    lab = shared_lab
    lab.pods[0].serve_http()
    lab.pods[1].serve_http()
    lab.manifests.node(lab.node, zone="a")
    lab.manifests.service("web", ports=[Port(80, "http", node_port=30080)], cluster_ip=WEB)
    ports = [Port(80, "http", target=8080)]
    lab.manifests.slice("web", [*lab.pods, Backend("10.244.9.9", ready=False)], ports=ports)
    lab.manifests.service("dns", ports=[Port(53, "dns", "UDP")], cluster_ip=DNS, namespace="kube-system")
    dns = [Port(53, "dns", "UDP", target=8080)]
    lab.manifests.slice("dns", lab.pods[:1], ports=dns, namespace="kube-system")
    # The one flow is to be seen by all tests of this file, however long these take.
    proxy = lab.node.start_userproxy(*QUICK, "--udp-timeout", "1h")
    lab.settle()
    for _ in range(REQUESTS):
        fetch(lab.client, (WEB, 80))
    ask(lab.client, (DNS, 53))
    with lab.client.connect((WEB, 80)) as kept:
        kept.send(b"GET / HTTP/1.1\r\n\r\n")
        assert kept.recv(1000)
        yield Seen(lab, proxy, kept)


def normalised(text: str) -> str:
    """The text without times, ports that the kernel has chosen, and widths; without what `settle` has written."""
    for pattern, word in (
        (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d{3}", "TIME"),
        (r"\d\d:\d\d:\d\d ", "TIME "),
        (r"\b\d+(\.\d+)?(us|ms|s)\b", "SECONDS"),
        (r"\b([3-6]\d{4})\b(?<!30080)", "PORT"),
        (r"(?<=\S)  +", " "),
    ):
        text = re.sub(pattern, word, text)
    return "".join(line for line in text.splitlines(keepends=True) if "settled-" not in line)


MOST_RETRIES = max(1, int(CONTROL))
"""The Pod that refuses is found out once by each process that carries some of the traffic: all of them, or not."""

SERVICES = """\
NAMESPACE NAME PORT PROTOCOL ENDPOINTS ACTIVE TOTAL FAILED RETRIED UP DOWN
default web http TCP 3/4 1 13 0 RETRIES 1002B 1.5KiB
kube-system dns dns UDP 1/1 1 1 0 0 1B 48B
"""

ENDPOINTS = """\
SERVICE ENDPOINT READY USABLE ACTIVE TOTAL FAILED DIAL-P50 DIAL-P99 REASON
default/web:http 10.244.1.2:8080 true true N N 0 SECONDS SECONDS <none>
default/web:http 10.244.1.3:8080 true true N N 0 SECONDS SECONDS <none>
default/web:http 10.244.1.4:8080 true true N N RETRIES - - <none>
default/web:http 10.244.9.9:8080 false false N N 0 - - not ready
"""

CONNECTIONS = """\
ID SERVICE PROTOCOL CLIENT ENDPOINT STATE AGE IDLE UP DOWN RETRIES FAULTS PORTAL DIAL SOURCE SOURCE-ADDRESS
ID kube-system/dns:dns UDP 10.244.1.5:PORT 10.244.1.2:8080 open SECONDS SECONDS 1B 48B 0 <none> \
10.96.0.53:53 SECONDS SEEN
ID default/web:http TCP 10.244.1.5:PORT ANSWERS open SECONDS SECONDS 18B 118B 0 <none> 10.96.0.10:80 SECONDS SEEN
"""

PORTALS = """\
PORTAL KIND PROTOCOL SERVICE LOCAL-PORT DRIVER IN-SYNC
0.0.0.0:30080 NodePort TCP default/web:http PORT iptables true
10.96.0.10:80 ClusterIP TCP default/web:http PORT iptables true
10.96.0.53:53 ClusterIP UDP kube-system/dns:dns PORT iptables true
"""


def test_tables_of_real_traffic(seen: Seen) -> None:
    retries = str(seen.items("services", "default/web")[0]["retried"])
    assert 1 <= int(retries) <= MOST_RETRIES
    assert normalised(seen.run("get", "services")) == SERVICES.replace("RETRIES", retries)
    assert normalised(seen.run("get", "portals")) == PORTALS
    endpoints = normalised(seen.run("get", "endpoints", "default/web"))
    endpoints = re.sub(r"(true|false) \d+ \d+ ", r"\1 N N ", endpoints)
    expected = ENDPOINTS.replace("RETRIES", retries)
    # For five seconds after a failed dial the reason says so.
    assert re.sub(r"passed over for [\d.]+ s after a failed dial", "<none>", endpoints) == expected
    connections = re.sub(r"(?m)^\d+ ", "ID ", normalised(seen.run("get", "connections", "-o", "wide")))
    head, *lines = connections.splitlines(keepends=True)
    connections = "".join([head, *sorted(lines, reverse=True)])  # ids say which came first only within a process
    expected = CONNECTIONS.replace("ANSWERS", str(kept(seen)["endpoint"])).replace("SEEN", "client 10.244.1.5:PORT")
    if WORKERS and kept(seen)["retries"]:  # the one that lasts may be the first one of its process
        expected = expected.replace("18B 118B 0", "18B 118B 1")
    assert connections == expected


def kept(seen: Seen) -> dict[str, Any]:
    """The connection that lasts."""
    (found,) = seen.items("connections", "default/web")
    return found


@pytest.mark.parametrize("kind", ["services", "endpoints", "connections", "portals"])
def test_every_form_has_the_same_items(seen: Seen, kind: str) -> None:
    count = len(seen.items(kind))
    assert count >= 2
    assert len(yaml.safe_load(seen.run("get", kind, "-o", "yaml"))["items"]) == count
    assert len(seen.run("get", kind, "-o", "name").splitlines()) == count
    for form in ("table", "wide"):
        assert len(seen.run("get", kind, "-o", form).splitlines()) == count + 1


def test_figures_agree_with_each_other_and_with_the_traffic(seen: Seen) -> None:
    (web,) = seen.items("services", "default/web")
    endpoints = seen.items("endpoints", "default/web")
    assert (web["total"], web["active"], web["failed"]) == (REQUESTS + 1, 1, 0)
    for field in ("active", "total", "bytes_up", "bytes_down"):
        assert sum(each[field] for each in endpoints) == web[field], field
    assert web["retried"] == sum(each["failed"] for each in endpoints) >= 1
    decided = [json.loads(line) for line in seen.run("observe", "default/web", "-o", "json").splitlines()]
    verdicts = [each["verdict"] for each in decided]
    assert (verdicts.count("served"), verdicts.count("retried")) == (REQUESTS, web["retried"])


def test_selections(seen: Seen) -> None:
    client = seen.lab.client.address
    assert [each["protocol"] for each in seen.items("connections", "-l", f"client={client},protocol=udp")] == ["UDP"]
    assert [each["service"] for each in seen.items("connections", "-n", "kube-system")] == ["kube-system/dns"]
    (web,) = seen.items("connections", "web", "-n", "default")
    (found,) = seen.items("connections", "-l", f"endpoint={web['endpoint']},state=open,protocol=TCP")
    assert found["id"] == web["id"]
    assert seen.items("connections", "-l", "state=dialing") == []
    assert {each["name"] for each in seen.items("services", "-l", "endpoint=10.244.1.2:8080")} == {"web", "dns"}


RETRIED = (
    "TIME: 10.244.1.5:PORT -> 10.96.0.10:80 -> default/web:http -> 10.244.1.N:8080 TCP RETRIED"
    " (tried 10.244.1.4:8080: Connection refused; SECONDS)"
)
SERVED = (
    "TIME: 10.244.1.5:PORT -> 10.96.0.10:80 -> default/web:http -> 10.244.1.N:8080 TCP SERVED"
    " (SECONDS, 82B up, 118B down)"
)


def test_decisions_of_real_traffic(seen: Seen) -> None:
    def observed(*arguments: str) -> list[str]:
        text = normalised(seen.run("observe", *arguments))
        return re.sub(r"> 10\.244\.1\.[23]:", "> 10.244.1.N:", text).splitlines()

    assert observed("default/web", "--verdict", "retried")[0] == RETRIED
    assert observed("default/web", "--last", "1") == [RETRIED if kept(seen)["retries"] else SERVED]
    assert len(observed("--from", seen.lab.client.address, "--last", "3")) == 3
    assert observed("--from", "192.0.2.99") == []
    assert observed("--to-endpoint", "10.244.1.4:8080")[0] == RETRIED


def test_decisions_and_connections_as_they_come(seen: Seen) -> None:
    lab = seen.lab
    with ExitStack() as stack:
        command = [installed_command(), "observe", "-f", "-o", "json"]
        observing = stack.enter_context(Program(lab.node, command))
        watching = stack.enter_context(Program(lab.node, [installed_command(), "get", "connections", "-w"]))
        watching.wait_line("default/web:http")

        def decided() -> bool:
            fetch(lab.client, (WEB, 80))
            return any(json.loads(line)["verdict"] == "served" for line in list(observing.lines))

        eventually(decided, 30, "a decision is told of")
        watching.wait_line(" closed ")
        for program in (observing, watching):
            program.signal(signal.SIGINT)
            assert program.wait() == 130


def test_a_service_for_a_person(seen: Seen) -> None:
    text = seen.run("describe", "service", "default/web")
    assert normalised(text).startswith(
        "Name: web\nNamespace: default\nAffinity: None\nBalancer: round-robin\nClient address: auto\n"
    )
    assert "  Endpoints, 3 of 4 usable:\n" in text
    assert "Problems:  <none>\n" in text
    assert text.count(" -> default/web:http -> ") == 10


def test_status_and_what_makes_it_fail(seen: Seen) -> None:
    assert "All is well." in seen.run("status").splitlines()
    status = json.loads(seen.run("status", "-o", "json"))
    assert (status["in_sync"], status["node"]) == (True, "node-1")
    *data, control = [each["pid"] for each in status["processes"]]
    assert (len(data), control) == (int(CONTROL), seen.proxy.pid)
    conflict = seen.lab.manifests.service("rival", ports=80, cluster_ip=WEB, created="2026-02-02T00:00:00Z")
    seen.lab.settle()
    assert "  1 problem of Services: " in seen.run("status", code=1)
    assert WEB in seen.run("describe", "service", "default/rival")
    assert "- default/rival" in seen.run("diff", code=1) or WEB in seen.run("diff", code=1)
    seen.lab.manifests.remove(conflict)
    eventually(lambda: seen.lab.node.userproxy("status", check=False).returncode == 0, 30, "the conflict is over")
    assert "All is well." in seen.run("status").splitlines()
    assert seen.run("diff") == ""


def test_diff_sees_rules_that_others_take_away(seen: Seen) -> None:
    """Before they are repaired."""

    def differs() -> str:
        seen.lab.node.run(["iptables", "-t", "nat", "-F", "KUBE-NODEPORT-HOST"])
        done = seen.lab.node.userproxy("diff", check=False)
        return done.stdout if done.returncode else ""

    line = eventually(differs, 60, "a rule is missed")
    assert line.startswith("- IPv4 iptables: nat: -A KUBE-NODEPORT-HOST ")
    assert "--dport 30080" in line
    eventually(lambda: not seen.lab.node.userproxy("diff", check=False).stdout, 30, "it is repaired")


@pytest.mark.parametrize("kind", ["services", "endpoints", "clients"])
def test_top_sees_traffic(seen: Seen, kind: str) -> None:
    command = [installed_command(), "top", kind, "-b", "-d", "0.3"]
    with Program(seen.lab.node, command) as top:

        def busy() -> bool:
            fetch(seen.lab.client, (WEB, 80))
            rows = [line.split() for line in top.lines if "10.244.1." in line or "default/web" in line]
            return any(float(row[-6]) > 0 for row in rows)

        eventually(busy, 30, f"{kind} have connections a second")


def test_a_path_where_no_proxy_is(seen: Seen) -> None:
    for path, sentence in (
        ("/run/nowhere.sock", "there is no socket /run/nowhere.sock: no userproxy runs here"),
        ("/etc/hostname", "/etc/hostname is not a socket"),
    ):
        done = seen.lab.node.userproxy("get", "services", "--admin-socket", path, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"Error: {sentence}")
        assert len(done.stderr.splitlines()) == 1


def test_another_user_is_told_to_ask_as_root(seen: Seen) -> None:
    # What is imported is loaded before: another user may not be able to read where userproxy is installed for tests.
    source = (
        "import os; import userproxy.cli.inspect.get, userproxy.admin.client; from userproxy.cli import main;"
        " os.setgroups([]); os.setgid(65534); os.setuid(65534); main(prog_name='userproxy')"
    )
    command = [sys.executable, "-c", source, "get", "services", "--admin-socket", "/run/userproxy/admin.sock"]
    done = seen.lab.node.run(command, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: /run/userproxy/admin.sock is not for this user: ask as root")


def test_a_proxy_of_another_version(seen: Seen, tmp_path: Path) -> None:
    script = "import userproxy; userproxy.__version__ = '9.9'; from userproxy.cli import main; main(['status'])"
    done = seen.lab.node.run([installed_command().replace("userproxy", "python"), "-c", script], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "and this command is version 9.9: use the command that belongs to it" in done.stderr


def test_a_proxy_that_has_been_stopped(lab: Lab) -> None:
    proxy = lab.node.start_userproxy(*QUICK)
    eventually(lambda: lab.node.userproxy("status", check=False).returncode == 0, 30, "it answers")
    with Program(lab.node, [installed_command(), "observe", "-f"]) as observing:
        eventually(lambda: lab.node.userproxy("status", check=False).returncode == 0, 30, "it answers still")
        assert proxy.terminate() == 0
        assert observing.wait() == 1
        assert list(observing.lines)[-1].startswith("Error: ")
    done = lab.node.userproxy("get", "services", check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "no userproxy runs here" in done.stderr

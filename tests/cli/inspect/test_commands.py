"""The commands against an admin server: what they ask, what they print, and how they end."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.admin.planes import DNS, ONE, TWO, WEB, Served, connection
from tests.cli.served import Running, running
from userproxy.admin.items import Differences
from userproxy.cli import main
from userproxy.demo.waiting import eventually
from userproxy.model import ListenerName, Problem, ProblemKind
from userproxy.model.reports import (
    Attempt,
    ChangeKind,
    ConnectionChange,
    ConnectionState,
    Decision,
    DialTimes,
    EndpointFigures,
    ListenerFigures,
    Outcome,
    SocketAddress,
)
from userproxy.model.snapshots import Verdict

CLIENT = SocketAddress("10.2.0.9", 40000)
PORTAL = SocketAddress("10.96.0.10", 80)


def decision(number: int, verdict: Outcome = Outcome.SERVED, tried: tuple[Attempt, ...] = ()) -> Decision:
    name = ListenerName(WEB)
    return Decision(1.7e9 + number, name, CLIENT, PORTAL, ONE, verdict, "", tried, 0.25, 10, 2000, number)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as found:

        def fill(api: Served) -> None:
            api.control.add(WEB, ONE, TWO)
            api.control.add(DNS, ip="10.96.0.53", port=53)
            dial = DialTimes((0.001, 0.01), (4, 0, 0), 0.002)
            figures = (
                EndpointFigures(ONE, active=1, total=4, bytes_up=100, bytes_down=200, dial=dial),
                EndpointFigures(TWO, failed=2, passed_over_seconds=3.0),
            )
            listener = ListenerFigures(
                ListenerName(WEB),
                Verdict.SERVE,
                40000,
                1,
                4,
                retried=2,
                bytes_up=100,
                bytes_down=200,
                endpoints=figures,
            )
            api.data.figures = (listener,)
            api.data.open = [
                connection(1),
                connection(2, state=ConnectionState.DIALING, endpoint=None, age_seconds=9.0),
                connection(3, name=DNS),
            ]
            retried = decision(1, Outcome.RETRIED, (Attempt(TWO, "Connection refused"),))
            api.data.made = [retried, decision(2), decision(3, Outcome.RESET)]
            text = "default/web: node port 30080 is taken"
            api.control.found = frozenset({Problem(WEB.service, ProblemKind.PORT_CONFLICT, text, here=True)})

        found.tell(fill)
        yield found


SERVICES = """\
NAMESPACE     NAME   PORT   PROTOCOL   ENDPOINTS   ACTIVE   TOTAL   FAILED   RETRIED   UP     DOWN
default       web    http   TCP        2/2         1        4       0        2         100B   200B
kube-system   dns    dns    UDP        0/0         0        0       0        0         0B     0B
"""

ENDPOINTS = """\
SERVICE            ENDPOINT        READY   USABLE   ACTIVE   TOTAL   FAILED   DIAL-P50   DIAL-P99   REASON
default/web:http   10.1.0.1:8080   true    true     1        4       0        500us      990us      <none>
default/web:http   10.1.0.2:8080   true    true     0        0       2        -          -          \
passed over for 3.0 s after a failed dial
"""

CONNECTIONS = """\
ID   SERVICE               PROTOCOL   CLIENT          ENDPOINT        STATE     AGE   IDLE   UP     DOWN     RETRIES
1    default/web:http      TCP        10.2.0.9:1025   10.1.0.1:8080   open      1s    0s     100B   2.0KiB   0
2    default/web:http      TCP        10.2.0.9:1026   -               dialing   9s    0s     100B   2.0KiB   0
3    kube-system/dns:dns   UDP        10.2.0.9:1027   10.1.0.1:8080   open      1s    0s     100B   2.0KiB   0
"""

PORTALS = """\
PORTAL          KIND        PROTOCOL   SERVICE               LOCAL-PORT   DRIVER     IN-SYNC
10.96.0.10:80   ClusterIP   TCP        default/web:http      40000        iptables   true
10.96.0.53:53   ClusterIP   UDP        kube-system/dns:dns   40000        iptables   true
"""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("services", SERVICES),
        ("services -A", SERVICES),
        ("endpoints default/web", ENDPOINTS),
        ("ep web -n default", ENDPOINTS),
        ("connections", CONNECTIONS),
        ("portals", PORTALS),
        ("services -n kube-system -o name", "service/kube-system/dns:dns\n"),
        ("connections -l state=dialing -o name", "connection/2\n"),
        ("connections --sort-by -age_seconds -o name", "connection/2\nconnection/1\nconnection/3\n"),
    ],
)
def test_lists(proxy: Running, arguments: str, text: str) -> None:
    result = proxy.run("get", *arguments.split())
    assert (result.stdout, result.stderr, result.exit_code) == (text, "", 0)


@pytest.mark.parametrize("kind", ["services", "endpoints", "connections", "portals"])
def test_json_and_yaml_are_what_the_api_says(proxy: Running, kind: str) -> None:
    items = list(proxy.api.client.items(kind))
    assert items
    assert json.loads(proxy.run("get", kind, "-o", "json").stdout) == {"items": items}
    assert yaml.safe_load(proxy.run("get", kind, "-o", "yaml").stdout) == {"items": items}
    assert len(proxy.run("get", kind, "-o", "wide").stdout.splitlines()) == len(items) + 1


def test_nothing_found_is_no_error_but_a_service_that_there_is_not_is_one(proxy: Running) -> None:
    result = proxy.run("get", "connections", "-n", "nobody")
    assert (result.stdout, result.stderr, result.exit_code) == ("", "No connections found in nobody.\n", 0)
    assert json.loads(proxy.run("get", "connections", "-n", "nobody", "-o", "json").stdout) == {"items": []}
    for command in (("get", "connections"), ("describe", "service"), ("observe",), ("top", "services")):
        result = proxy.run(*command, "default/nope")
        sentence = "Error: no Service default/nope is served here: `userproxy get services` lists those that are\n"
        assert (result.stdout, result.stderr, result.exit_code) == ("", sentence, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("get services web", "say which namespace the Service is in"),
        ("get services -l state=open", "-l: 'state=open' is not KEY=VALUE with one of the keys endpoint, protocol"),
        ("get services --sort-by nothing", "--sort-by: 'nothing' is not one of namespace, name, port"),
        ("get services -w --sort-by name", "--sort-by: changes come in the order of their times"),
        ("observe --from web", "--from: 'web' is not an IP address"),
        ("observe --to-endpoint web:80", "--to-endpoint: 'web' is not an IP address"),
    ],
)
def test_bad_usage_is_one_sentence(proxy: Running, arguments: str, sentence: str) -> None:
    result = proxy.run(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {sentence}")
    assert len(result.stderr.splitlines()) == 1


OBSERVED = """\
10.2.0.9:40000 -> 10.96.0.10:80 -> default/web:http -> 10.1.0.1:8080 TCP RETRIED \
(tried 10.1.0.2:8080: Connection refused; 250ms)
10.2.0.9:40000 -> 10.96.0.10:80 -> default/web:http -> 10.1.0.1:8080 TCP SERVED (250ms, 10B up, 2.0KiB down)
10.2.0.9:40000 -> 10.96.0.10:80 -> default/web:http -> 10.1.0.1:8080 TCP RESET (250ms, 10B up, 2.0KiB down)
"""


def without_times(text: str) -> str:
    return "".join(line.partition(": ")[2] for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [("", [0, 1, 2]), ("default/web", [0, 1, 2]), ("--last 1", [2]), ("--verdict served --verdict reset", [1, 2])],
)
def test_decisions_of_the_past(proxy: Running, arguments: str, lines: list[int]) -> None:
    result = proxy.run("observe", *arguments.split())
    assert without_times(result.stdout).splitlines() == [OBSERVED.splitlines()[each] for each in lines]


def test_decisions_as_json_are_an_object_a_line(proxy: Running) -> None:
    found = [json.loads(line) for line in proxy.run("observe", "-o", "json").stdout.splitlines()]
    assert found == proxy.api.client.get("decisions")["items"]
    assert list(found[0]) == [
        "time",
        "service",
        "port",
        "protocol",
        "client",
        "portal",
        "endpoint",
        "verdict",
        "reason",
        "tried",
        "duration_seconds",
        "bytes_up",
        "bytes_down",
        "source",
    ]


def decided(made: Decision) -> Callable[[Served], None]:
    def told(api: Served) -> None:
        for watch in api.data.decision_watches:
            watch.tell(made)

    return told


@contextmanager
def following(proxy: Running, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A command that goes on, as a process of its own."""
    command = [sys.executable, "-m", "userproxy", *arguments, "--admin-socket", proxy.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_decisions_as_they_come(proxy: Running) -> None:
    with following(proxy, "observe", "-f", "--last", "2") as process:
        past = lines(process, 2)
        proxy.tell(decided(decision(4, Outcome.TIMED_OUT)))
        assert without_times("".join(past)).splitlines() == OBSERVED.splitlines()[1:]
        assert " TCP TIMED-OUT (" in lines(process, 1)[0]


def test_ctrl_c_ends_it_without_a_word(proxy: Running) -> None:
    with following(proxy, "observe", "-f", "--last", "1") as process:
        lines(process, 1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 130


def test_a_reader_that_goes_ends_it_without_a_word(proxy: Running) -> None:
    with following(proxy, "observe", "-f", "--last", "1") as process:
        lines(process, 1)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        proxy.tell(decided(decision(4)))
        assert process.wait(30) == 1
        assert process.stderr.read() == ""


def change(kind: ChangeKind, number: int) -> Callable[[Served], None]:
    def told(api: Served) -> None:
        for watch in api.data.connection_watches:
            watch.tell(ConnectionChange(kind, connection(number)))

    return told


@pytest.mark.parametrize(
    ("form", "first", "rest"),
    [
        ([], CONNECTIONS.splitlines(), "4    default/web:http "),
        (["-o", "name"], ["connection/1", "connection/2", "connection/3"], "connection/4"),
        (["-o", "json"], ['{"id":1,', '{"id":2,', '{"id":3,'], '{"id":4,'),
    ],
    ids=["table", "name", "json"],
)
def test_connections_as_they_come(proxy: Running, form: list[str], first: list[str], rest: str) -> None:
    with following(proxy, "get", "connections", "-w", *form) as process:
        for expected in first:
            assert lines(process, 1)[0].startswith(expected)
        proxy.tell(change(ChangeKind.ADDED, 4))
        added = lines(process, 1)[0]
        proxy.tell(change(ChangeKind.REMOVED, 4))
        removed = lines(process, 1)[0]
    assert (added.startswith(rest), removed.startswith(rest)) == (True, True)
    if "name" not in form:
        assert ("open" in added, "closed" in removed) == (True, True)


def test_events_stand_beside_objects_as_in_kubernetes_watches(proxy: Running) -> None:
    with following(proxy, "get", "connections", "-w", "-o", "json", "--output-watch-events") as process:
        found = [json.loads(line) for line in lines(process, 3)]
        assert {each["type"] for each in found} == {"ADDED"}
        proxy.tell(change(ChangeKind.REMOVED, 3))
        gone = json.loads(lines(process, 1)[0])
        assert (gone["type"], gone["object"]["id"], gone["object"]["state"]) == ("DELETED", 3, "closed")


def test_events_are_a_column_of_a_table_that_goes_on(proxy: Running) -> None:
    with following(proxy, "get", "services", "-w", "--output-watch-events") as process:
        heading, web, _ = lines(process, 3)
        assert (heading.split()[:2], web.split()[:2]) == (["EVENT", "NAMESPACE"], ["ADDED", "default"])
        proxy.tell(lambda api: api.control.ports.pop(DNS))
        assert lines(process, 1)[0].split()[:3] == ["DELETED", "kube-system", "dns"]


def test_status(proxy: Running) -> None:
    result = proxy.run("status")
    assert (result.exit_code, result.stdout.splitlines()[1]) == (0, "All is well.")
    assert json.loads(proxy.run("status", "-o", "json").stdout)["node"] == "node-1"
    assert yaml.safe_load(proxy.run("status", "-o", "yaml").stdout)["healthy"] is True


def test_without_differences_there_is_no_line(proxy: Running) -> None:
    result = proxy.run("diff")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_differences_are_a_line_each_and_exit_code_1(proxy: Running) -> None:
    def differ(api: Served) -> None:
        api.differences = Differences(("nat: -A X -j Y",), ("local route to 10.0.0.1",), ("IPv6: no netlink",))

    proxy.tell(differ)
    result = proxy.run("diff")
    assert result.stdout == "- nat: -A X -j Y\n+ local route to 10.0.0.1\n? IPv6: no netlink\n"
    assert result.exit_code == 1
    for form in ("json", "yaml"):
        result = proxy.run("diff", "-o", form)
        assert yaml.safe_load(result.stdout)["left_over"] == ["local route to 10.0.0.1"]
        assert result.exit_code == 1


def test_describe(proxy: Running) -> None:
    result = proxy.run("describe", "service", "default/web", "--last", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "  port conflict: default/web: node port 30080 is taken (on this node)" in result.stdout.splitlines()
    assert "  Endpoints, 2 of 2 usable:" in result.stdout.splitlines()
    assert result.stdout.count(" -> default/web:http -> ") == 1
    assert "kube-system" not in result.stdout


def test_where_no_proxy_runs_every_command_says_what_to_do(tmp_path: Path) -> None:
    for command in ("get services", "describe service a/b", "observe", "observe -f", "top clients", "status", "diff"):
        result = CliRunner().invoke(main, [*command.split(), "--admin-socket", str(tmp_path / "no.sock")])
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"Error: there is no socket {tmp_path / 'no.sock'}: no userproxy runs here")
        assert len(result.stderr.splitlines()) == 1


def test_top_prints_one_table_where_there_is_no_terminal(proxy: Running) -> None:
    for kind, name in (("services", "default/web:http"), ("endpoints", "10.1.0.1:8080 default/web:http")):
        head, heading, first, *_ = proxy.run("top", kind, "-d", "0.1").stdout.splitlines()
        assert head.endswith(f"  {kind}, every 0.1 s")
        assert heading.split()[:3] == [kind.upper()[:-1], "ACTIVE", "CONN/S"]
        assert first.startswith(name)


def test_top_counts_clients_whose_connections_are_over(proxy: Running) -> None:
    def decide() -> None:
        eventually(lambda: proxy.api.data.decision_watches, 30, "decisions are watched")
        proxy.tell(decided(decision(4)))

    telling = threading.Thread(target=decide)
    telling.start()
    result = proxy.run("top", "clients", "-d", "0.5", "--iterations", "1")
    telling.join()
    assert result.stdout.splitlines()[2].split()[:2] == ["10.2.0.9", "3"]

"""Lists, once and as they change."""

import json
from collections.abc import Callable

import pytest
import yaml

from tests.admin.planes import DNS, Served, connection
from tests.cli.inspect.asking import following, lines
from tests.cli.served import Running
from userproxy.cli.inspect.get import with_events
from userproxy.cli.output.kinds import KINDS
from userproxy.model.reports import (
    ChangeKind,
    ConnectionChange,
)

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


def test_each_column_of_a_change_is_that_of_its_object() -> None:
    kind = KINDS["connections"]
    shown = with_events(kind)
    item = {"id": 7, "service": "default/web", "port": "http", "protocol": "TCP", "client": "10.2.0.9:1"}
    change = {"type": "DELETED", "object": item}
    assert [each.heading for each in shown.columns] == ["EVENT", *(each.heading for each in kind.columns)]
    assert shown.columns[0].text(change) == "DELETED"
    assert shown.columns[1].text(change) == kind.columns[0].text(item) == "7"
    assert shown.name(change) == kind.name(item) == "connection/7"

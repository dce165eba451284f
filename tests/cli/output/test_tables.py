"""Tables, and the other forms of the same items."""

import json

import pytest
import yaml

from tests.cli.items import connection, endpoint, portal, service
from userproxy.cli.output.forms import Form, as_list
from userproxy.cli.output.kinds import CONNECTIONS, ENDPOINTS, PORTALS, SERVICES, Kind
from userproxy.cli.output.tables import Column, Item, Table

ITEMS: dict[str, list[Item]] = {
    "services": [
        service(),
        service("dns", namespace="kube-system", port="", protocol="UDP", portals=[], endpoints={"usable": 0, "all": 0}),
    ],
    "endpoints": [
        endpoint(),
        endpoint("[fd00::15]:53", node=None, usable=False, reason="not ready", dial_p50_seconds=None, port=""),
    ],
    "connections": [connection(), connection(12345, endpoint=None, state="dialing", portal=None)],
    "portals": [portal(), portal("[::]:30080", kind="NodePort", local_port=None, in_sync=False)],
}

GOLDEN = {
    "services": """\
NAMESPACE     NAME   PORT     PROTOCOL   ENDPOINTS   ACTIVE   TOTAL   FAILED   RETRIED   UP     DOWN
default       web    http     TCP        2/3         1        12      0        3         900B   1.5KiB
kube-system   dns    <none>   UDP        0/0         1        12      0        3         900B   1.5KiB""",
    "endpoints": """\
SERVICE            ENDPOINT          READY   USABLE   ACTIVE   TOTAL   FAILED   DIAL-P50   DIAL-P99   REASON
default/web:http   10.244.0.2:8080   true    true     1        6       0        210us      12.3ms     <none>
default/web        [fd00::15]:53     true    false    1        6       0        -          12.3ms     not ready""",
    "connections": """\
ID      SERVICE            PROTOCOL   CLIENT             ENDPOINT          STATE     AGE   IDLE   UP     DOWN     RETRIES
1       default/web:http   TCP        10.244.0.9:40001   10.244.0.2:8080   open      75s   2s     100B   2.0KiB   0
12345   default/web:http   TCP        10.244.0.9:52345   -                 dialing   75s   2s     100B   2.0KiB   0""",  # noqa: E501
    "portals": """\
PORTAL          KIND        PROTOCOL   SERVICE            LOCAL-PORT   DRIVER     IN-SYNC
10.96.0.10:80   ClusterIP   TCP        default/web:http   34567        iptables   true
[::]:30080      NodePort    TCP        default/web:http   -            iptables   false""",
}
WIDE = {
    "services": "BALANCER      AFFINITY   CLIENT-ADDRESS   SENDS-PROXY   ACCEPTS-PROXY   LIMITS   LIMITED   WAITING   "
    "PORTALS",
    "endpoints": "NODE     ZONE   SERVING   TERMINATING   WEIGHT   UP     DOWN     REASON",
    "connections": "PORTAL          DIAL    SOURCE   SOURCE-ADDRESS",
    "portals": "DRIVER     IN-SYNC",
}

NAMES = {
    "services": ["service/default/web:http", "service/kube-system/dns"],
    "endpoints": ["endpoint/10.244.0.2:8080", "endpoint/[fd00::15]:53"],
    "connections": ["connection/1", "connection/12345"],
    "portals": ["portal/10.96.0.10:80/TCP", "portal/[::]:30080/TCP"],
}

BY_ROUTE = {kind.route: kind for kind in (SERVICES, ENDPOINTS, CONNECTIONS, PORTALS)}


def shown(form: Form, kind: Kind) -> str:
    return "\n".join(as_list(form, ITEMS[kind.route], kind.columns, kind.name))


@pytest.mark.parametrize("route", GOLDEN)
def test_a_table_is_aligned_and_complete(route: str) -> None:
    assert shown(Form.TABLE, BY_ROUTE[route]) == GOLDEN[route]


@pytest.mark.parametrize("route", GOLDEN)
def test_a_wide_table_has_more_columns(route: str) -> None:
    heading, *rows = shown(Form.WIDE, BY_ROUTE[route]).splitlines()
    assert WIDE[route] in heading
    assert len(rows) == 2


def test_lists_stand_in_one_cell() -> None:
    _, web, dns = shown(Form.WIDE, SERVICES).splitlines()
    cells = ["round-robin", "None", "node", "-", "-", "-", "0", "0", "10.96.0.10:80,0.0.0.0:30080"]
    assert web.split()[-len(cells) :] == cells
    assert dns.endswith("<none>")


@pytest.mark.parametrize("route", GOLDEN)
def test_json_and_yaml_have_every_field_under_items(route: str) -> None:
    assert json.loads(shown(Form.JSON, BY_ROUTE[route])) == {"items": ITEMS[route]}
    assert yaml.safe_load(shown(Form.YAML, BY_ROUTE[route])) == {"items": ITEMS[route]}


@pytest.mark.parametrize("route", GOLDEN)
def test_names_stand_alone(route: str) -> None:
    assert shown(Form.NAME, BY_ROUTE[route]).splitlines() == NAMES[route]


def test_a_table_that_goes_on_has_one_heading_and_keeps_its_columns() -> None:
    table = Table([Column("NAME", lambda item: str(item["name"])), Column("N", lambda item: str(item["n"]))])
    assert table.lines([{"name": "a-long-one", "n": 1}]) == ["NAME         N", "a-long-one   1"]
    assert table.lines([{"name": "b", "n": 22}]) == ["b            22"]
    assert table.lines([{"name": "the-longest-one", "n": 3}]) == ["the-longest-one   3"]
    assert table.lines([]) == []


def test_a_table_of_nothing_has_a_heading() -> None:
    assert Table([Column("NAME", str), Column("N", str)]).lines([]) == ["NAME   N"]


def test_a_cell_cannot_move_the_cursor() -> None:
    table = Table([Column("NAME", lambda item: str(item["name"]))])
    assert table.lines([{"name": "\x1b[2Jweb\n\u202ex"}])[1:] == ["?[2Jweb??x"]

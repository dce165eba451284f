"""One Service for a person."""

from datetime import UTC
from typing import Any

from tests.cli.items import decision, endpoint, portal, service
from userproxy.cli.output.description import describe_service

TEXT = """\
Name:            web
Namespace:       default
Affinity:        None
Balancer:        round-robin
Client address:  node

Port http, TCP:
  Clients:  1 active, 12 in all
  Retried:  3, and 0 failed
  Bytes:    900B up, 1.5KiB down
  Portals:
    PORTAL          KIND        PROTOCOL   LOCAL-PORT   DRIVER     IN-SYNC
    10.96.0.10:80   ClusterIP   TCP        34567        iptables   true
  Endpoints, 2 of 3 usable:
    ENDPOINT          READY   USABLE   ACTIVE   TOTAL   FAILED   DIAL-P50   DIAL-P99   NODE     ZONE   SERVING   TERMINATING   WEIGHT   UP     DOWN     REASON
    10.244.0.2:8080   true    true     1        6       0        210us      12.3ms     node-1   -      true      false         1        100B   2.9KiB   <none>

Port (no name), UDP:
  Clients:  1 active, 12 in all
  Retried:  3, and 0 failed
  Bytes:    900B up, 1.5KiB down
  Limits:   100 connections, 30/m (wait), idle 5m; 7 refused, 3 waiting
  Hold:     120 s while there is no endpoint; 5 held
  PROXY:    header v2 is sent to endpoints
  PROXY:    header v1 is expected
  Portals:  <none>
  Endpoints, 0 of 0 usable:  <none>

Problems:
  port conflict: node port 30080 is taken by a program (on this node)

Last decisions:
  Nov 21 22:17:34.123: 10.244.0.9:40001 -> 10.96.0.10:80 -> default/web:http -> 10.244.0.2:8080 TCP SERVED (12.3ms, 120B up, 4.5KiB down)"""  # noqa: E501


def test_everything_of_a_service_stands_under_the_port_that_it_is_of() -> None:
    problem = {
        "service": "default/web",
        "kind": "port conflict",
        "text": "node port 30080 is taken by a program",
        "here": True,
    }
    headers = {"proxy_protocol": "v2", "accept_proxy_protocol": "v1"}
    limits = {"connections": 100, "overflow": "wait", "rate": 0.5, "idle": 300.0}
    more: dict[str, Any] = {"limits": limits, "limited": 7, "waiting": 3, "hold": 120.0, "held": 5, **headers}
    ports = [service(), service(port="", protocol="UDP", endpoints={"usable": 0, "all": 0}, **more)]
    assert "\n".join(describe_service(ports, [endpoint()], [portal()], [problem], [decision()], UTC)) == TEXT


def test_what_there_is_none_of_is_said() -> None:
    lines = describe_service([service()], [], [], [], [], UTC)
    assert lines[-3:] == ["Problems:  <none>", "", "Last decisions:  <none>"]

"""Items as the admin API has them, with all fields, for tests of what is shown of them."""

from typing import Any


def service(name: str = "web", **fields: Any) -> dict[str, Any]:
    return {
        "namespace": "default",
        "name": name,
        "port": "http",
        "protocol": "TCP",
        "portals": ["10.96.0.10:80", "0.0.0.0:30080"],
        "balancer": "round-robin",
        "affinity": "None",
        "endpoints": {"usable": 2, "all": 3},
        "active": 1,
        "total": 12,
        "failed": 0,
        "retried": 3,
        "bytes_up": 900,
        "bytes_down": 1536,
        "client_address": "node",
        "proxy_protocol": None,
        "accept_proxy_protocol": None,
        "limits": None,
        "limited": 0,
        "hold": None,
        "held": 0,
        "waiting": 0,
    } | fields


def endpoint(address: str = "10.244.0.2:8080", **fields: Any) -> dict[str, Any]:
    return {
        "service": "default/web",
        "port": "http",
        "endpoint": address,
        "node": "node-1",
        "zone": None,
        "ready": True,
        "serving": True,
        "terminating": False,
        "usable": True,
        "reason": "",
        "active": 1,
        "total": 6,
        "failed": 0,
        "bytes_up": 100,
        "bytes_down": 3000,
        "dial_p50_seconds": 0.00021,
        "dial_p99_seconds": 0.0123,
        "weight": 1,
    } | fields


def connection(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "service": "default/web",
        "port": "http",
        "protocol": "TCP",
        "client": f"10.244.0.9:{40000 + number}",
        "portal": "10.96.0.10:80",
        "endpoint": "10.244.0.2:8080",
        "state": "open",
        "age_seconds": 75.25,
        "idle_seconds": 2.5,
        "bytes_up": 100,
        "bytes_down": 2048,
        "retries": 0,
        "dial_seconds": 0.0004,
        "source": "node",
        "source_address": f"10.244.0.1:{50000 + number}",
    } | fields


def portal(address: str = "10.96.0.10:80", **fields: Any) -> dict[str, Any]:
    return {
        "portal": address,
        "kind": "ClusterIP",
        "protocol": "TCP",
        "service": "default/web",
        "port": "http",
        "local_port": 34567,
        "driver": "iptables",
        "in_sync": True,
    } | fields


def decision(verdict: str = "served", **fields: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-21T22:17:34.123456Z",
        "service": "default/web",
        "port": "http",
        "protocol": "TCP",
        "client": "10.244.0.9:40001",
        "portal": "10.96.0.10:80",
        "endpoint": "10.244.0.2:8080",
        "verdict": verdict,
        "reason": "",
        "tried": [],
        "duration_seconds": 0.0123,
        "bytes_up": 120,
        "bytes_down": 4608,
        "source": "node",
    } | fields


def status(**fields: Any) -> dict[str, Any]:
    return {
        "in_sync": True,
        "healthy": True,
        "version": "1.2.3",
        "node": "node-1",
        "source": "/etc/services",
        "families": [family()],
        "watches": [{"resource": "services", "synced": True, "last_event_age_seconds": 3.2, "reason": ""}],
        "processes": [process()],
        "problems": 0,
    } | fields


def family(**fields: Any) -> dict[str, Any]:
    return {
        "family": "IPv4",
        "driver": "nftables",
        "served": True,
        "in_sync": True,
        "since": "2026-11-21T22:00:00Z",
        "reason": "",
        "pending_services": 0,
        "pending_endpoint_slices": 0,
    } | fields


def process(**fields: Any) -> dict[str, Any]:
    return {
        "pid": 42,
        "loop_lag_seconds": 0.0021,
        "descriptors": 30,
        "descriptor_limit": 1024,
        "connections": 5,
        "flows": 1,
        "pipes": 0,
    } | fields

"""What tabs may ask for."""

import pytest

from userproxy.dashboard.figures.looks import ServicePort


@pytest.mark.parametrize("key", ["default/web/http/TCP", "kube-system/dns//UDP"])
def test_keys_of_service_ports(key: str) -> None:
    found = ServicePort.parse(key)
    assert found is not None
    assert found.key == key


@pytest.mark.parametrize(
    "key", ["", "web", "default/web/http", "default/web/http/ICMP", "default/web/http/TCP\n", "a/b/c/TCP&limit=1"]
)
def test_what_is_no_key(key: str) -> None:
    found = ServicePort.parse(key)
    assert found is None


def test_the_api_is_asked_by_name_and_what_it_says_is_told_apart_by_port() -> None:
    subject = ServicePort("default", "web", "http", "TCP")
    assert subject.query == {"namespace": "default", "service": "web", "protocol": "TCP"}
    assert subject.has({"port": "http", "protocol": "TCP"})
    assert subject.has({"port": "http"})
    assert not subject.has({"port": "https", "protocol": "TCP"})
    assert not subject.has({"port": "http", "protocol": "UDP"})

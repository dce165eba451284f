"""What the options of commands mean."""

import pytest

from userproxy.cli.inspect.options import Subject, endpoint, selectors, subject
from userproxy.errors import UsageError

KNOWN = frozenset({"client", "endpoint", "protocol", "state"})


@pytest.mark.parametrize(
    ("target", "namespace", "all_namespaces", "meant"),
    [
        (None, None, False, Subject()),
        (None, "default", False, Subject("default")),
        (None, "default", True, Subject()),
        ("default/web", None, False, Subject("default", "web")),
        ("default/web", "default", False, Subject("default", "web")),
        ("default/web", "other", True, Subject("default", "web")),
        ("web", "default", False, Subject("default", "web")),
    ],
)
def test_which_service_is_meant(
    target: str | None, namespace: str | None, all_namespaces: bool, meant: Subject
) -> None:
    assert subject(target, namespace, all_namespaces=all_namespaces) == meant


@pytest.mark.parametrize(
    ("target", "namespace", "sentence"),
    [
        ("web", None, "say which namespace the Service is in: NS/web, or web -n NS"),
        ("default/web", "other", "-n other: 'default/web' is in another namespace"),
        ("default/", None, "'default/' is not the name of a Service: write NS/NAME, for example default/web"),
        ("/web", None, "'/web' is not the name of a Service"),
        ("a/b/c", None, "'a/b/c' is not the name of a Service"),
        ("default/web:http", None, "'default/web:http' is not the name of a Service"),
        ("", None, "'' is not the name of a Service"),
    ],
)
def test_a_name_that_is_none_is_one_sentence(target: str, namespace: str | None, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        subject(target, namespace)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, {}),
        ("", {}),
        ("client=10.0.0.1", {"client": "10.0.0.1"}),
        ("state=open, protocol=udp,", {"state": "open", "protocol": "UDP"}),
        ("endpoint=10.0.0.1:80", {"endpoint": "10.0.0.1:80"}),
        ("endpoint=10.0.0.1", {"endpoint": "10.0.0.1"}),
        ("endpoint=[fd00::0:15]:53", {"endpoint": "[fd00::15]:53"}),
        ("endpoint=fd00::15,client=[fd00::9]", {"endpoint": "fd00::15", "client": "fd00::9"}),
    ],
)
def test_selectors(text: str | None, found: dict[str, str]) -> None:
    assert selectors(text, KNOWN) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("app=web", "-l: 'app=web' is not KEY=VALUE with one of the keys client, endpoint, protocol, state"),
        ("client", "-l: 'client' is not KEY=VALUE"),
        ("client=", "-l: 'client=' is not KEY=VALUE"),
        ("=x", "-l: '=x' is not KEY=VALUE"),
        ("client=web", "-l: client: 'web' is not an IP address"),
        ("state=closed", "-l: state: 'closed' is not one of dialing, held, open, half-closed, draining"),
        ("protocol=SCTP", "-l: protocol: 'SCTP' is not one of TCP, UDP"),
        ("endpoint=10.0.0.1:0", "-l: endpoint: '10.0.0.1:0' is not an endpoint such as 10.0.0.1:80"),
        ("endpoint=10.0.0.1:http", "-l: endpoint: '10.0.0.1:http' is not an endpoint such as 10.0.0.1:80"),
    ],
)
def test_a_selector_that_is_none_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        selectors(text, KNOWN)
    assert str(caught.value).startswith(sentence)


def test_an_endpoint_is_written_in_one_way() -> None:
    assert endpoint("10.0.0.1:0080", "--to-endpoint") == "10.0.0.1:80"

"""``drain`` and ``undrain`` against an admin server: what they ask, print, and how they end."""

import pytest

from tests.cli.served import Running
from tests.cli.steer.conftest import asks_for_nothing, good


def test_an_endpoint_is_drained_and_undrained(proxy: Running) -> None:
    said = good(proxy, "drain", "default/web", "--endpoint", "10.1.0.1:8080")
    assert said == "default/web: 10.1.0.1:8080 gets no new clients until `undrain`\n"
    more = ("--for", "10m", "--close-after", "30s")
    said = good(proxy, "drain", "web", "-n", "default", "--endpoint", "10.1.0.2:8080", *more)
    assert said.startswith("default/web: 10.1.0.2:8080 gets no new clients until ")
    assert "; connections are closed at " in said
    (first, second) = proxy.api.drains.all()
    assert (first.until, first.closes_at) == (None, None)
    assert second.until is not None
    assert second.closes_at is not None
    assert (second.until - second.began, second.closes_at - second.began) == (600, 30)
    said = good(proxy, "undrain", "default/web", "--endpoint", "10.1.0.1:8080")
    assert said == "default/web: 1 endpoint no longer drained\n"
    good(proxy, "drain", "default/web", "--endpoint", "10.1.0.1:8080")
    assert good(proxy, "undrain", "default/web") == "default/web: 2 endpoints no longer drained\n"
    assert proxy.api.drains.all() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("drain web --endpoint 10.1.0.1:8080", "say which namespace the Service is in: NS/web, or web -n NS"),
        ("drain default/web", "Missing option '--endpoint'"),
        ("drain default/web --endpoint 10.1.0.1", "'10.1.0.1' has no port: write 10.1.0.1:PORT"),
        ("drain default/web --endpoint fd00::1", "'fd00::1' has no port: write [fd00::1]:PORT"),
        ("drain default/web --endpoint x:80", "--endpoint: 'x' is not an IP address"),
        ("drain default/web --endpoint 10.1.0.1:8080 --for 10", "--for: '10' is not a duration such as 250ms"),
        ("drain default/web --endpoint 10.1.0.1:8080 --for 0s", "--for: 0s is not between 1s and 168h"),
        (
            "drain default/web --endpoint 10.1.0.1:8080 --for 30s --close-after 30s",
            "--close-after: 30s is not less than --for 30s",
        ),
    ],
)
def test_wrong_input_is_one_sentence_and_asks_for_nothing(proxy: Running, arguments: str, sentence: str) -> None:
    asks_for_nothing(proxy, arguments, sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("drain default/nobody --endpoint 10.1.0.1:8080", "no Service default/nobody is served here"),
        ("drain default/web --endpoint 10.1.0.9:8080", "default/web has no endpoint 10.1.0.9:8080"),
        ("undrain default/web", "no endpoint of default/web is drained"),
    ],
)
def test_what_the_proxy_does_not_know_is_one_sentence(proxy: Running, arguments: str, sentence: str) -> None:
    asks_for_nothing(proxy, arguments, sentence, code=1)

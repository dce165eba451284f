"""How values of options are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.cli.steer.values import duration, endpoint_with_port, service
from userproxy.durations import format_duration
from userproxy.errors import UsageError

WEEK = 7 * 86_400.0


@given(st.floats(0, 1000), st.floats(0, WEEK), st.floats(0, WEEK))
def test_a_duration_is_within_its_bounds_or_a_sentence_names_them(seconds: float, one: float, other: float) -> None:
    least, most = sorted((one, other))
    text = f"{seconds:.3f}s"
    if least <= float(f"{seconds:.3f}") <= most:
        assert duration(text, "--for", least, most) == pytest.approx(seconds, abs=0.001)
    else:
        with pytest.raises(UsageError) as caught:
            duration(text, "--for", least, most)
        bounds = f"between {format_duration(least)} and {format_duration(most)}"
        assert str(caught.value) == f"--for: {text} is not {bounds}"


@given(st.integers(1, 65_535), st.ip_addresses())
def test_an_endpoint_has_an_address_and_a_port(port: int, address: object) -> None:
    host = f"[{address}]" if ":" in str(address) else str(address)
    assert endpoint_with_port(f"{host}:{port}", "--endpoint").endswith(f":{port}")
    with pytest.raises(UsageError, match=r"has no port: write .*:PORT") as caught:
        endpoint_with_port(str(address), "--endpoint")
    said = str(caught.value).partition("write ")[2].replace("PORT", str(port))
    assert endpoint_with_port(said, "--endpoint"), "what it says to write is right"


@pytest.mark.parametrize("text", ["", ":80", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "web:80"])
def test_what_is_no_endpoint_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--endpoint: "):
        endpoint_with_port(text, "--endpoint")


def test_a_service_has_a_namespace() -> None:
    assert str(service("default/web")) == str(service("web", "default")) == "default/web"
    with pytest.raises(UsageError, match="say which namespace the Service is in: NS/web, or web -n NS"):
        service("web")

"""``fault`` against an admin server: what it asks, prints, and how it ends."""

from itertools import combinations
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.admin.planes import Served
from tests.cli.served import Running
from tests.cli.steer.conftest import asks_for_nothing, bad, good
from userproxy.cli.steer.fault import _effect
from userproxy.durations import format_duration
from userproxy.errors import UsageError
from userproxy.model.faults import (
    Bandwidth,
    Blackhole,
    Direction,
    Drop,
    Effect,
    Latency,
    Refuse,
    ResetAfterBytes,
    ResetAfterSeconds,
)

EACH: Final = {
    "latency": "200ms",
    "refuse": True,
    "blackhole": True,
    "reset_after": "64KB",
    "bandwidth": "1MB/s",
    "drop": True,
}
NOTHING: Final[dict[str, Any]] = dict.fromkeys((*EACH, "jitter", "direction", "percent"))


@pytest.mark.parametrize(
    ("options", "effect"),
    [
        ("--latency 200ms", Latency(0.2)),
        ("--latency 200ms --jitter 50ms --direction both", Latency(0.2, 0.05, Direction.BOTH)),
        ("--refuse", Refuse()),
        ("--blackhole", Blackhole()),
        ("--reset-after 64KB", ResetAfterBytes(64_000)),
        ("--reset-after 100", ResetAfterBytes(100)),
        ("--reset-after 2s", ResetAfterSeconds(2.0)),
        ("--reset-after 1m", ResetAfterSeconds(60.0)),
        ("--reset-after 1M", ResetAfterBytes(1_000_000)),
        ("--bandwidth 1MB/s", Bandwidth(1_000_000)),
    ],
)
def test_each_kind_of_fault(proxy: Running, options: str, effect: Effect) -> None:
    said = good(proxy, "fault", "set", "default/web", *options.split(), "--for", "5m")
    assert said.startswith(f"fault 1: {effect}, for default/web until ")
    assert [fault.effect for fault in proxy.api.steering.faults] == [effect]


def test_faults_are_listed_and_cleared(proxy: Running) -> None:
    assert proxy.run("fault", "list").stderr == "No faults in force.\n"
    options = "--endpoint 10.1.0.1:8080 --client 10.2.0.9/24 --latency 200ms --percent 25 --for 5m"
    said = good(proxy, "fault", "set", "default/web:80", *options.split())
    assert said.startswith(
        "fault 1: latency 200ms of 25 %, for default/web:http, endpoint 10.1.0.1:8080, clients of 10.2.0.0/24 until "
    )
    good(proxy, "fault", "set", "kube-system/dns", "--drop", "--percent", "10%", "--for", "1h")
    assert [fault.effect for fault in proxy.api.steering.faults] == [Latency(0.2), Drop()]
    lines = good(proxy, "fault", "list").splitlines()
    assert [line.split()[:6] for line in lines] == [
        ["ID", "SERVICE", "PORTS", "ENDPOINT", "CLIENT", "FAULT"],
        ["1", "default/web", "http", "10.1.0.1:8080", "10.2.0.0/24", "latency"],
        ["2", "kube-system/dns", "<none>", "<none>", "<none>", "drop"],
    ]
    assert good(proxy, "fault", "clear", "1") == "1 fault cleared\n"
    assert good(proxy, "fault", "clear", "--all") == "1 fault cleared\n"
    assert proxy.api.steering.faults == ()


def test_without_the_flag_it_is_one_sentence(proxy: Running) -> None:
    def forbid(api: Served) -> Any:
        api.may_have_faults = False

    proxy.tell(forbid)
    said = bad(proxy, "fault", "set", "default/web", "--refuse", "--for", "5m", code=1)
    assert said == "Error: faults are not allowed here: start userproxy with --allow-faults\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("fault set default/web --latency 200ms", "Missing option '--for'"),
        ("fault set default/web --for 5m", "a fault has exactly one of --latency, --refuse, --blackhole"),
        ("fault set default/web --for 5m --refuse --blackhole", "and this one 2: set one after the other"),
        ("fault set default/web --for 25h --refuse", "--for: 25h is not between 1s and 24h"),
        ("fault set default/web --for 5m --latency fast", "--latency: 'fast' is not a duration"),
        ("fault set default/web --for 5m --latency 61s", "--latency: 61s is not between 0s and 1m"),
        ("fault set default/web --for 5m --refuse --jitter 1s", "--jitter: it belongs to --latency"),
        ("fault set default/web --for 5m --refuse --direction up", "--direction: it belongs to --latency and --drop"),
        ("fault set default/web --for 5m --bandwidth 1MB", "--bandwidth: '1MB' is not a rate such as 64KB/s or 1MB/s"),
        ("fault set default/web --for 5m --bandwidth 0B/s", "--bandwidth: 0B/s is not between 1 byte and"),
        ("fault set default/web --for 5m --reset-after soon", "'soon' is neither a size such as 64KB nor a duration"),
        ("fault set default/web --for 5m --reset-after 1xs", "--reset-after: '1xs' is not a duration"),
        ("fault set default/web --for 5m --refuse --percent 0", "--percent: '0' is not a number above 0 and up to 100"),
        ("fault set default/web --for 5m --refuse --percent all", "--percent: 'all' is not a number above 0"),
        ("fault set default/web --for 5m --refuse --client 10.0.0.0/33", "--client: '10.0.0.0/33' is no address or"),
        ("fault set default/web --for 5m --refuse --endpoint 10.1.0.1", "'10.1.0.1' has no port"),
        ("fault set web --for 5m --refuse", "say which namespace the Service is in"),
        ("fault clear", "say which fault is to be cleared: its ID, or --all"),
        ("fault clear 1 --all", "say which fault is to be cleared: its ID, or --all"),
        ("fault clear one", "'one' is not the number of a fault"),
    ],
)
def test_wrong_input_is_one_sentence_and_asks_for_nothing(proxy: Running, arguments: str, sentence: str) -> None:
    asks_for_nothing(proxy, arguments, sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("fault set default/web --for 5m --drop", "drop: that does not happen to TCP ports, which default/web has"),
        ("fault clear 7", "there is no fault 7"),
    ],
)
def test_what_the_proxy_does_not_know_is_one_sentence(proxy: Running, arguments: str, sentence: str) -> None:
    asks_for_nothing(proxy, arguments, sentence, code=1)


@pytest.mark.parametrize("pair", list(combinations(EACH, 2)), ids="+".join)
def test_a_fault_has_one_effect(pair: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=r"a fault has exactly one of .*, and this one 2: set one after the other"):
        _effect(**NOTHING | {kind: EACH[kind] for kind in pair})


@pytest.mark.parametrize("kind", [kind for kind in EACH if kind not in ("latency", "drop")])
def test_an_option_of_another_effect_is_not_passed_over(kind: str) -> None:
    for option, value in (("jitter", "1ms"), ("direction", "up")):
        with pytest.raises(UsageError, match=f"--{option}: it belongs to --latency"):
            _effect(**NOTHING | {kind: EACH[kind], option: value})


@settings(deadline=None)
@given(st.integers(1, 10**12))
def test_a_reset_comes_after_so_many_bytes(size: int) -> None:
    for text in (str(size), f"{size}B"):
        assert _effect(**NOTHING | {"reset_after": text}) == {"kind": "reset-after-bytes", "bytes": size}


@settings(deadline=None)
@given(st.integers(1, 86_400_000))
def test_a_reset_comes_after_so_long(milliseconds: int) -> None:
    text = format_duration(milliseconds / 1000)
    found = _effect(**NOTHING | {"reset_after": text})
    assert found["kind"] == "reset-after-seconds"
    assert found["seconds"] == pytest.approx(milliseconds / 1000)


@settings(deadline=None)
@given(st.text(max_size=8))
def test_whatever_is_written_a_reset_is_within_its_bounds_or_one_sentence_says_why_not(text: str) -> None:
    try:
        found = _effect(**NOTHING | {"reset_after": text})
    except UsageError:
        return
    assert 0.001 <= found.get("seconds", 1) <= 86_400
    assert 1 <= found.get("bytes", 1) <= 10**12

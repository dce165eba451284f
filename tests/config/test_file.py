"""Text becomes values: all mistakes at once, nothing raised but ValueError. What is written reads back the same."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config.strategies import configurations
from userproxy.config import load
from userproxy.config.file import decode, render, write
from userproxy.config.kubeproxy import KubeProxyConfiguration, leaves, plain, replaced
from userproxy.errors import UsageError

HEAD = b"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def values(text: str) -> dict[str, Any]:
    decoded = decode(HEAD + text.encode())
    assert decoded.problems == ()
    return {path: value for path, value in decoded.given.items() if path not in {"apiVersion", "kind"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bindAddress: 10.0.0.1", {"bindAddress": "10.0.0.1"}),
        ("iptables: {syncPeriod: 1m0s, masqueradeBit: 0}",
         {"iptables.syncPeriod": "1m0s", "iptables.masqueradeBit": 0}),
        ("iptables: {syncPeriod: 0s, minSyncPeriod: 0h0m, localhostNodePorts: null}", {}),
        ("iptables: null", {}),
        ("clientConnection: {qps: 0, burst: 0, contentType: ''}", {}),
        ("clientConnection: {qps: 7}", {"clientConnection.qps": 7.0}),
        ("oomScoreAdj: 0", {"oomScoreAdj": 0}),
        ("oomScoreAdj: -0x50\nconntrack: {min: 1_000, maxPerCore: 010}\niptables: {masqueradeBit: 0o17}",
         {"oomScoreAdj": -80, "conntrack.min": 1000, "conntrack.maxPerCore": 8, "iptables.masqueradeBit": 15}),
        ("clientConnection: {qps: 0b101, burst: 0x0}", {"clientConnection.qps": 5.0}),
        ("conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, udpTimeout: 0s}",
         {"conntrack.maxPerCore": 0, "conntrack.tcpEstablishedTimeout": "0s"}),
        ("nodePortAddresses: []", {}),
        ("nodePortAddresses: [primary]", {"nodePortAddresses": ("primary",)}),
        ("featureGates: {A: true, B: false}", {"featureGates": {"A": True, "B": False}}),
        ("logging: {flushFrequency: 2000000000}", {"logging.flushFrequency": "2s"}),
        ("logging: {options: {json: {infoBufferSize: 5}}}", {"logging.options.json.infoBufferSize": "5"}),
        ("udpIdleTimeout: 1s", {"udpIdleTimeout": "1s"}),
    ],
)  # fmt: skip
def test_values_by_path(text: str, expected: dict[str, Any]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "path", "sentence"),
    [
        ("oomScoreAdj: low", "oomScoreAdj", "'low' is not a whole number"),
        ("oomScoreAdj: true", "oomScoreAdj", "true is not a whole number"),
        ("oomScoreAdj: 99999999999", "oomScoreAdj", "99999999999 is too large"),
        ("bindAddressHardFail: 1", "bindAddressHardFail", "1 is not true or false"),
        ("showHiddenMetricsForVersion: 1.35", "showHiddenMetricsForVersion", "1.35 is not text"),
        ("clientConnection: {qps: .nan}", "clientConnection.qps", "'.nan' is not a number"),
        ("clientConnection: {qps: 1e999}", "clientConnection.qps", "inf is not a number"),
        ("oomScoreAdj: 0x5g", "oomScoreAdj", "'0x5g' is not a whole number"),
        ("oomScoreAdj: '50'", "oomScoreAdj", "'50' is not a whole number"),
        ("oomScoreAdj: 0x80000000", "oomScoreAdj", "2147483648 is too large"),
        ("iptables: {syncPeriod: 30}", "iptables.syncPeriod", "'30' is not a duration such as 250ms, 2s or 1m30s"),
        (f"iptables: {{syncPeriod: {'9' * 12}h}}", "iptables.syncPeriod", f"'{'9' * 12}h' is longer than"),
        ("iptables: [30s]", "iptables", "['30s'] is not a mapping"),
        ("nodePortAddresses: 10.0.0.0/8", "nodePortAddresses", "'10.0.0.0/8' is not a list of texts"),
        ("featureGates: {A: 3}", "featureGates", "{'A': 3} is not a mapping from names to true or false"),
        ("kind: Pod", "kind", "'Pod' is not KubeProxyConfiguration"),
    ],
)
def test_wrong_types(text: str, path: str, sentence: str) -> None:
    (problem,) = decode(HEAD + text.encode()).problems
    assert problem.path == path
    assert problem.text.startswith(sentence)


def test_all_mistakes_at_once() -> None:
    decoded = decode(b"oomScoreAdj: low\nmode: 3\nudpIdleTimeout: x\n")
    assert [problem.path for problem in decoded.problems] == [
        "oomScoreAdj",
        "mode",
        "udpIdleTimeout",
        "apiVersion",
        "kind",
    ]


def test_unknown_and_duplicate_fields_are_named_and_the_last_counts() -> None:
    decoded = decode(
        HEAD
        + b"mode: ipvs\nBindAddress: 10.0.0.1\niptables: {a: {b: 1}, syncPeriod: 1s, syncPeriod: 2s}\nmode: ''\n1: 2"
    )
    assert decoded.unknown == ("BindAddress", "iptables.a", "1")
    assert decoded.duplicate == ("mode", "iptables.syncPeriod")
    assert decoded.given["iptables.syncPeriod"] == "2s"
    assert "mode" not in decoded.given
    assert decoded.problems == ()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is not a mapping"),
        (b"just words", "is not a mapping"),
        (b"a: [", "line 2: "),
        (b"a:\n\tb: 1", "line 2: "),
        (b"a: 1\n---\nb: 1", "line 2: "),
        (b"\xff\xfe\xff", ""),
        (b"[" * 20_000, "line 1: nested more than 100 levels deep"),
        (HEAD + b"x: &x {y: *x}", "line 3: an alias stands inside its own anchor"),
        (b"[a]: 1", "line 1: "),
    ],
)
def test_no_document(data: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        decode(data)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("value", [b"2020-99-99", b"!!python/name:os.system x", b"!!binary x", b"{<<: {a: 1}}"])
def test_no_form_of_value_spoils_the_rest(value: bytes) -> None:
    decoded = decode(HEAD + b"mode: ipvs\nx: " + value)
    assert decoded.unknown == ("x",)
    assert decoded.given["mode"] == "ipvs"


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes(data: bytes) -> None:
    with suppress(ValueError):
        decode(data)


@given(
    st.dictionaries(
        st.sampled_from([path for path, _ in leaves(KubeProxyConfiguration())]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        ),
        max_size=4,
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_anywhere(given_values: dict[str, object]) -> None:
    raw: dict[str, Any] = {}
    for path, value in given_values.items():
        *sections, name = path.split(".")
        section = raw
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    decoded = decode(yaml.safe_dump(raw).encode())
    named = {problem.path for problem in decoded.problems}
    assert not named & decoded.given.keys() - {"apiVersion", "kind"}
    assert decoded.unknown == ()


@given(configurations())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_write_then_read_gives_the_same(tmp_path: Path, configuration: KubeProxyConfiguration) -> None:
    file = tmp_path / "config.yaml"
    assert write(configuration, file) == ()
    loaded = load({"config": str(file)})
    assert loaded.settings.configuration == configuration
    assert render(loaded.settings.configuration) == file.read_bytes()


def test_the_file_names_its_kind_and_every_field(tmp_path: Path) -> None:
    write(KubeProxyConfiguration(), tmp_path / "config.yaml")
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written == plain(KubeProxyConfiguration())
    assert (written["apiVersion"], written["kind"]) == ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")
    assert written["iptables"]["syncPeriod"] == "30s"


def test_what_a_file_cannot_say_is_named(tmp_path: Path) -> None:
    configuration = replaced(KubeProxyConfiguration(), {"healthzBindAddress": "", "iptables.minSyncPeriod": "0s"})
    assert set(write(configuration, tmp_path / "c")) == {"healthzBindAddress", "iptables.minSyncPeriod"}


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^--write-config-to: {tmp_path}/no/file: no such file or directory$"):
        write(KubeProxyConfiguration(), tmp_path / "no" / "file")


def test_zero_that_counts_is_kept() -> None:
    configuration = replaced(KubeProxyConfiguration(), {"oomScoreAdj": 0, "iptables.localhostNodePorts": False})
    assert replaced(KubeProxyConfiguration(), decode(render(configuration)).given) == configuration

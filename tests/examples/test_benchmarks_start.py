"""What a start takes: the sources that it is measured with, and the report."""

from pathlib import Path

from examples.benchmarks.measure import Sample
from examples.benchmarks.start import API, MANIFESTS, _sourced, to_text
from userproxy.cluster.manifests import ManifestSource
from userproxy.cluster.store import Store
from userproxy.model import IPFamily


def test_manifests_hold_all_services_with_two_endpoints_each(tmp_path: Path) -> None:
    store = Store()
    with _sourced(tmp_path, MANIFESTS, 30) as (flag, path):
        source = ManifestSource([Path(path)], store, lambda: None)
        source.load()
    assert flag == "--manifests"
    assert source.problems == ()
    states = store.subscribe(IPFamily.IPV4).take_changes().values()
    assert [len(part.endpoints) for state in states if state for part in state.slices] == [2] * 30


def test_an_api_server_is_there_meanwhile(tmp_path: Path) -> None:
    with _sourced(tmp_path, API, 3) as (flag, path):
        assert (flag, "server: 'http://127.0.0.1:" in Path(path).read_text()) == ("--kubeconfig", True)


def test_the_report_has_a_line_for_each_driver_and_source() -> None:
    values = {"wall_s": 1.5, "cpu_s": 1.25, "resident_mb": 90.0}
    lines = to_text([Sample(1, "none, api", values), Sample(2, "none, api", {**values, "wall_s": 2.5})]).splitlines()
    assert lines[0].split("  ")[0] == "driver, source"
    assert lines[1].startswith("none, api ")
    assert lines[1].endswith("2.00 (1.50..2.50)  1.25 (1.25..1.25)  90 (90..90)")

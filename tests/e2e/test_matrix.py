"""Which tests of the matrix run where."""

import re
from pathlib import Path

import pytest

from tests.e2e.matrix import CELLS, EXEMPTIONS, SUITES, Exemption, chosen_cells, drawn

HERE = Path(__file__).parent


def test_every_suite_of_the_matrix_exists() -> None:
    assert not [name for name in SUITES if not (HERE / f"{name}.py").exists()]


def test_cells_are_named_by_driver_by_wiring_or_by_both() -> None:
    assert chosen_cells("all") == chosen_cells("sample") == list(CELLS)
    assert [str(cell) for cell in chosen_cells("iptables-nft")] == ["iptables-nft:bridged", "iptables-nft:routed"]
    assert {cell.pods for cell in chosen_cells("routed")} == {"routed"}
    assert [str(cell) for cell in chosen_cells("iptables-legacy:routed")] == ["iptables-legacy:routed"]
    with pytest.raises(pytest.UsageError, match="none of"):
        chosen_cells("ipvs")


@pytest.mark.parametrize("exemption", EXEMPTIONS, ids=lambda each: f"{each.test} {' '.join(each.drivers)}")
def test_every_exemption_is_of_a_test_and_stands_in_the_documentation(exemption: Exemption) -> None:
    file, _, name = exemption.test.partition("::")
    assert file.removesuffix(".py") in SUITES
    assert f"def {name.partition('[')[0]}(" in (HERE / file).read_text()
    documented = re.sub(r"\s+", " ", (HERE.parents[1] / "docs" / "drivers.md").read_text())
    assert exemption.reason in documented


class Marked:
    """An item as far as a sample looks at it."""

    def __init__(self, nodeid: str, most: int | None) -> None:
        self.nodeid = nodeid
        self._most = most

    def get_closest_marker(self, name: str) -> "pytest.Mark | None":
        return pytest.Mark(name, (self._most,), {}, _ispytest=True) if self._most is not None else None


def test_a_sample_has_as_many_parameters_of_a_test_as_its_mark_says() -> None:
    items = [
        Marked(f"test_a.py::{name}[{number}]", most) for name, most in (("x", 2), ("y", None)) for number in range(9)
    ]

    def sampled(seed: str) -> list[str]:
        return [item.nodeid for item in drawn(items, seed)]  # type: ignore[arg-type]

    found = sampled("one")
    assert sum("::x[" in each for each in found) == 2
    assert sum("::y[" in each for each in found) == 9
    assert found == sampled("one")
    seen = {each for seed in range(60) for each in sampled(str(seed))}
    assert len(seen) == len(items), "many commits see all of it"

"""Which tests of the matrix run where."""

import re
from pathlib import Path

import pytest

from tests.e2e.matrix import CELLS, EXEMPTIONS, SUITES, Exemption, chosen_cells

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

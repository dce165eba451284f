"""What pytest needs to know of the lab; tests/conftest.py makes it known."""

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.cluster import CLASSIC, Cell, Lab


@pytest.fixture(scope="session")
def root() -> None:
    """Skips the test where hosts cannot be built."""
    if os.geteuid() != 0:
        pytest.skip("needs root to build hosts out of network namespaces (unshare -Urnm pytest will do)")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("matrix", "end-to-end tests by portal driver and by the wiring of Pods")
    group.addoption(
        "--matrix", default="sample", help="sample (one cell a test), all, or cells: iptables-nft, routed, ..."
    )
    group.addoption("--matrix-seed", default="", help="what decides on the sample; the commit's id by default")


@pytest.fixture(scope="module")
def cell(request: pytest.FixtureRequest) -> Cell:
    """The driver and the wiring of Pods that a test runs with; suites of the matrix run with several."""
    given = getattr(request, "param", CLASSIC)
    assert isinstance(given, Cell)
    return given


@pytest.fixture
def lab(root: None, tmp_path: Path, cell: Cell, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A cluster of the test's own: it takes a tenth of a second, and no test sees another's connections.

    Parametrised indirectly with ``api``, its objects live in an API server; else in manifests.
    """
    source = getattr(request, "param", "manifests")
    with ExitStack() as stack:
        yield Lab(tmp_path / "manifests", stack, api=source == "api", cell=cell)


@pytest.fixture
def routed_lab(root: None, tmp_path: Path) -> Iterator[Lab]:
    """A cluster whose Pods have links of their own to their nodes, without a bridge and without addresses there."""
    with ExitStack() as stack:
        yield Lab(tmp_path / "manifests", stack, cell=Cell(pods="routed"))


@pytest.fixture(scope="module")
def shared_lab(root: None, cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster for all tests of a file, which then have to keep out of each other's way."""
    with ExitStack() as stack:
        yield Lab(tmp_path_factory.mktemp("lab") / "manifests", stack, cell=cell)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a failed test's userproxy logs with the failure."""
    report = yield
    labs = dict.fromkeys(value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Lab))
    if report.failed:
        report.sections += [section for lab in labs for section in lab.logs().items()]
    return report

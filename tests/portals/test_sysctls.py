"""What is written where, on a copy of the files that the kernel has, and once in a network namespace's own."""

from pathlib import Path

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from tests.portals.conftest import Network
from userproxy.model import ConntrackSettings
from userproxy.portals.sysctls import conntrack_sysctls, set_conntrack

DEFAULTS = ConntrackSettings()
NOTHING = ConntrackSettings(max_per_core=0, min=0, tcp_established_timeout=0, tcp_close_wait_timeout=0)

KERNEL = {
    "proc/sys/net/netfilter/nf_conntrack_max": "65536",
    "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established": "432000",
    "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait": "60",
    "proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal": "0",
    "proc/sys/net/netfilter/nf_conntrack_udp_timeout": "30",
    "proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream": "120",
    "sys/module/nf_conntrack/parameters/hashsize": "16384",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two processors."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for name, value in KERNEL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    return tmp_path


def written(root: Path) -> dict[str, str]:
    """What differs from before, by the last part of its name."""
    now = {name: (root / name).read_text().strip() for name in KERNEL}
    return {name.rpartition("/")[2]: value for name, value in now.items() if value != KERNEL[name]}


def test_the_defaults(root: Path) -> None:
    set_conntrack(DEFAULTS, root)
    assert written(root) == {
        "nf_conntrack_max": "131072",
        "hashsize": "32768",
        "nf_conntrack_tcp_timeout_established": "86400",
        "nf_conntrack_tcp_timeout_close_wait": "3600",
    }


def test_everything(root: Path) -> None:
    every = ConntrackSettings(
        max_per_core=100,
        min=50,
        tcp_established_timeout=1.9,
        tcp_close_wait_timeout=0.1,
        tcp_be_liberal=True,
        udp_timeout=10,
        udp_stream_timeout=60,
    )
    set_conntrack(every, root)
    assert written(root) == {
        "nf_conntrack_max": "200",
        "nf_conntrack_tcp_timeout_established": "1",
        "nf_conntrack_tcp_timeout_close_wait": "1",
        "nf_conntrack_tcp_be_liberal": "1",
        "nf_conntrack_udp_timeout": "10",
        "nf_conntrack_udp_timeout_stream": "60",
    }, "the hash table is never made smaller"


def test_zero_leaves_things_alone(root: Path) -> None:
    set_conntrack(structs.replace(NOTHING, min=1 << 19), root)
    assert written(root) == {}


@pytest.mark.parametrize(
    ("processors", "per_core", "least", "entries"),
    [
        (1, 32768, 131072, 131072),
        (8, 32768, 131072, 262144),
        (32, 32768, 131072, 1048576),
        (33, 32768, 131072, 1048576),
        (64, 32768, 2097152, 1048576),
        (1, 5, 0, 5),
    ],
)
def test_how_many_entries(processors: int, per_core: int, least: int, entries: int) -> None:
    settings = structs.replace(NOTHING, max_per_core=per_core, min=least)
    assert dict(conntrack_sysctls(settings, processors)) == {"nf_conntrack_max": entries}


def test_what_is_so_already_is_not_written(root: Path) -> None:
    set_conntrack(DEFAULTS, root)
    for name in KERNEL:
        (root / name).chmod(0o400)
    before = {name: (root / name).stat().st_mtime_ns for name in KERNEL}
    set_conntrack(DEFAULTS, root)
    assert {name: (root / name).stat().st_mtime_ns for name in KERNEL} == before


@pytest.mark.parametrize(("asked", "level"), [(True, "warning"), (False, "info")])
def test_what_cannot_be_written_is_one_line(root: Path, *, asked: bool, level: str) -> None:
    (root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    (root / "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait").unlink()
    with capture_logs() as logs:
        set_conntrack(DEFAULTS, root, asked=asked)
    (line,) = [record for record in logs if record["log_level"] != "debug"]
    assert line["log_level"] == level
    names = ["nf_conntrack_max=131072", "nf_conntrack_tcp_timeout_close_wait=3600"]
    assert line["refused"] == {"No such file or directory": names}
    assert written_but(root) == {"nf_conntrack_tcp_timeout_established": "86400"}


def written_but(root: Path) -> dict[str, str]:
    left = [name for name in KERNEL if (root / name).exists()]
    return {
        name.rpartition("/")[2]: value for name in left if (value := (root / name).read_text().strip()) != KERNEL[name]
    }


def test_a_value_that_is_no_number_is_told_too(root: Path) -> None:
    (root / "sys/module/nf_conntrack/parameters/hashsize").write_text("many")
    with capture_logs() as logs:
        set_conntrack(DEFAULTS, root)
    (line,) = [record for record in logs if record["log_level"] != "debug"]
    assert "hashsize is not a number" in str(line["refused"])


def test_in_a_network_namespace_the_time_limits_are_its_own_and_the_size_is_the_machines(network: Network) -> None:
    at = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait")
    outside = at.read_text()
    size = int(at.with_name("nf_conntrack_max").read_text())
    with capture_logs() as logs:
        network.run(lambda: set_conntrack(structs.replace(DEFAULTS, max_per_core=1, min=size + 1)))
    assert network.run(at.read_text) == "3600\n"
    assert at.read_text() == outside
    (line,) = [record for record in logs if record["log_level"] != "debug"]
    (names,) = line["refused"].values()
    assert names == [f"nf_conntrack_max={size + 1}"]
    assert int(at.with_name("nf_conntrack_max").read_text()) == size

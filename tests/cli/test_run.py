"""What the command says to flags and files: one line for each mistake, exit code 2, and nothing has been touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from userproxy import __version__
from userproxy.cli import main
from userproxy.model import ConntrackSettings

KUBEADM = str(Path(__file__).parents[1] / "config" / "kubeadm.conf")


@pytest.fixture(autouse=True)
def conntrack(monkeypatch: pytest.MonkeyPatch) -> list[ConntrackSettings]:
    """What would be written to the kernel, which is this machine's own."""
    written: list[ConntrackSettings] = []
    target = "userproxy.wiring.conntrack_settings.set_conntrack"
    monkeypatch.setattr(target, lambda settings, **_: written.append(settings))
    return written


def run(*arguments: str) -> Result:
    return CliRunner(env={"KUBERNETES_SERVICE_HOST": None}).invoke(main, ["run", *arguments])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "nothing says which Services to serve: give --manifests PATH, or --kubeconfig FILE"),
        (("--manifests", "/nowhere/at/all"), "--manifests: /nowhere/at/all: no such file or directory"),
        (("--portals", "ipvs"), "--portals: 'ipvs' is not one of auto, iptables, nftables, local, none"),
        (("--event-loop", "trio"), "--event-loop: 'trio' is not one of auto, uvloop, asyncio"),
        (("--logging-format", "xml"), "--logging-format: 'xml' is not one of text, json"),
        (("--bind-address", "localhost"), "--bind-address: 'localhost' is not an IP address"),
        (("--bind-address", "127.0.0.1", "--portals", "iptables"), "--bind-address: 127.0.0.1 cannot be the target"),
        (("--proxy-port-range", "1-99999"), "--proxy-port-range: '1-99999' goes beyond port 65535"),
        (("--iptables-sync-period", "1x"), "--iptables-sync-period: '1x' is not a duration"),
        (("--iptables_sync_period", "0s"), "--iptables-sync-period: 0s is not greater than 0"),
        (("--iptables-min-sync-period", "1m"), "--iptables-sync-period: 30s is shorter than"),
        (("--drain-timeout", "-1s"), "--drain-timeout: -1s is negative"),
        (("--half-open-timeout", "forever"), "--half-open-timeout: 'forever' is not a duration"),
        (("--service-proxy-name", ""), "--service-proxy-name: an empty name selects no Service"),
        (("--proxy-mode", "kernelspace"), "--proxy-mode: 'kernelspace' is not one of userspace, iptables"),
        (("--config", "/nowhere"), "--config: /nowhere: no such file or directory"),
        (("--write-config-to", "/nowhere/at/all"), "--write-config-to: /nowhere/at/all: no such file or directory"),
        (("--v", "many"), "--v: 'many' is not a whole number"),
        (("-v=-1",), "--v: -1 is negative"),
        (("--masquerade-all=perhaps",), "--masquerade-all: 'perhaps' is not true or false"),
        (("--oom-score-adj", "-1001"), "--oom-score-adj: -1001 is not from -1000 to 1000"),
        (("--client-address", "client"), "--client-address: 'client' is not one of auto, keep, node"),
        (("--trusted-proxies", "10.0.0.1"), "--trusted-proxies: '10.0.0.1' is not a network such as 10.0.0.0/8"),
        (("--drain-timeout",), "Option '--drain-timeout' requires an argument"),
        (("--unheard-of",), "No such option"),
        (("web.yaml",), "Got unexpected extra argument (web.yaml)"),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    given = arguments if not arguments or "--manifests" in arguments else ("--manifests", str(tmp_path), *arguments)
    result = run(*given)
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_all_mistakes_at_once() -> None:
    result = run("--oom-score-adj=x", "--udp-timeout=-1s")
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        "Error: --oom-score-adj: 'x' is not a whole number",
        "--udp-timeout: -1s is negative",
    ]


def test_help_names_every_flag() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for flag in ("--manifests", "--drain-timeout", "--context", "-v", "--conntrack-max-per-core", "--feature-gates"):
        assert flag in result.output
    assert "[default: 30s]" in result.output


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom userproxy.cli import main\n"
        "assert CliRunner().invoke(main, ['run', '--help']).exit_code == 0\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    loaded = set(out.split())
    assert "msgspec" in loaded
    assert not loaded & {"yaml", "structlog", "rich", "uvloop", "aiohttp", "kubernetes_asyncio", "iptc"}


def test_a_start_loads_nothing_that_it_never_uses() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom userproxy.cli import main\n"
        "assert CliRunner().invoke(main, ['run', '--portals', 'none', '--init-only']).exit_code == 0\n"
        "import userproxy.wiring.serve\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    loaded = set(out.split())
    assert "structlog" in loaded
    assert not loaded & {"rich", "pygments", "iptc"}


def test_version() -> None:
    assert __version__ in run("--version").output


def records(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.output.splitlines()]


def test_kube_proxys_daemonset_starts_by_changing_image_and_command(tmp_path: Path) -> None:
    result = run(f"--config={KUBEADM}", "--hostname-override=node-1", "--init-only")
    assert result.exit_code == 0
    assert records(result) == [], "all that kubeadm writes means something here, or is the default"
    flags = ("--proxy-mode=nftables", "--masquerade-all", "--cluster-cidr=10.0.0.0/8", "--conntrack_min=0", "-v=2")
    result = run(*flags, "--feature-gates=A=true", "--feature-gates", "B=false", "--init-only=true")
    assert result.exit_code == 0
    idle, mode = records(result)
    assert idle["settings"] == ["--masquerade-all", "featureGates.A", "featureGates.B"]
    assert (idle["level"], mode["level"], mode["asked"]) == ("warning", "info", "nftables")


def test_switches_take_a_value_or_none() -> None:
    for flag in ("--bind-address-hard-fail", "--bind-address-hard-fail=false"):
        assert run(flag, "--init-only").exit_code == 0
    assert run("--init-only=false").exit_code == 2  # it goes on to serve, and has no source


def test_init_only_sets_conntrack_and_exits(conntrack: list[ConntrackSettings]) -> None:
    assert run("--init-only", "--conntrack-min=7", "--conntrack-tcp-timeout-close-wait=2m").exit_code == 0
    (written,) = conntrack
    assert (written.min, written.tcp_close_wait_timeout, written.tcp_established_timeout) == (7, 120.0, 86400.0)
    assert run("--init-only", "--portals=none").exit_code == 0
    assert len(conntrack) == 1, "no packet is translated then"


def test_the_configuration_is_written(tmp_path: Path) -> None:
    file = tmp_path / "out.yaml"
    result = run(
        "--write-config-to", str(file), "--iptables-sync-period=45s", "--nodeport-addresses=10.0.0.0/8,primary/8"
    )
    assert result.exit_code == 2
    assert not file.exists()
    result = run("--write-config-to", str(file), "--iptables-sync-period=45s", "--nodeport-addresses=10.0.0.0/8")
    assert result.exit_code == 0
    written = yaml.safe_load(file.read_text())
    assert written["iptables"]["syncPeriod"] == "45s"
    assert written["nodePortAddresses"] == ["10.0.0.0/8"]
    again = tmp_path / "again.yaml"
    assert run("--config", str(file), "--write-config-to", str(again)).exit_code == 0
    assert again.read_bytes() == file.read_bytes()


def test_what_a_file_cannot_say_is_warned_of(tmp_path: Path) -> None:
    (record,) = records(run("--write-config-to", str(tmp_path / "c"), "--healthz-port=0"))
    assert record["fields"] == ["healthzBindAddress"]

"""What is written reads back the same."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from tests.config.strategies import configurations
from userproxy.config import load
from userproxy.config.file import decode
from userproxy.config.kubeproxy import KubeProxyConfiguration, plain, replaced
from userproxy.config.write import render, write
from userproxy.errors import UsageError


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

"""The table of flags agrees with the fields that it names."""

from msgspec import structs

from userproxy.config.flags import FLAGS, default_text, flag_of_field, flag_of_path
from userproxy.config.kubeproxy import KubeProxyConfiguration, leaves
from userproxy.config.settings import OwnSettings

# The file only, as in kube-proxy; windowsRunAsService and winkernel have flags on Windows alone.
_FILE_ONLY = {
    "apiVersion",
    "kind",
    "clientConnection.acceptContentTypes",
    "nftables.masqueradeBit",
    "windowsRunAsService",
}


def test_flags_set_what_there_is_and_each_field_has_one_flag() -> None:
    fields = {path for path, _ in leaves(KubeProxyConfiguration()) if not path.startswith("winkernel.")} - _FILE_ONLY
    set_by_flags = [path for flag in FLAGS for path in flag.paths]
    assert sorted(set_by_flags) == sorted(fields)
    assert sorted(flag.field for flag in FLAGS if flag.field) == sorted(structs.asdict(OwnSettings()))
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)


def test_paths_of_one_flag_have_one_default() -> None:
    default = dict(leaves(KubeProxyConfiguration()))
    for flag in FLAGS:
        assert len({repr(default[path]) for path in flag.paths}) <= 1, flag.name


def test_defaults_pass_through_their_own_parser() -> None:
    default = dict(leaves(KubeProxyConfiguration()))
    for flag in FLAGS:
        text = default_text(flag)
        if text and flag.paths:
            assert flag.kind.parse(text) == default[flag.paths[0]], flag.name
        elif text:
            assert flag.kind.parse(text) == getattr(OwnSettings(), flag.field), flag.name


def test_names_of_flags() -> None:
    assert flag_of_path("iptables.syncPeriod") == "--iptables-sync-period"
    assert flag_of_path("udpIdleTimeout") == "--udp-timeout"
    assert flag_of_path("winkernel.sourceVip") == "winkernel.sourceVip"
    assert flag_of_field("proxy_name") == "--service-proxy-name"

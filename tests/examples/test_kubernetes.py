"""The manifests for a cluster: whole, able to start what they name, and allowed no more than it needs."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from click.testing import CliRunner

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from tests.lab.proxy import installed_command
from userproxy.cli import main
from userproxy.cluster.objects.resources import Resource, endpoint_slices, own_node, services
from userproxy.config.file import decode
from userproxy.config.kubeproxy import HEALTHZ_PORT, METRICS_PORT
from userproxy.config.load import load
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch
from userproxy.durations import parse_duration

PROJECT = Path(__file__).parents[2]
KUBERNETES = PROJECT / "examples" / "kubernetes"
BASE = KUBERNETES / "base"
OVERLAY = KUBERNETES / "one-service"
KUSTOMIZATION = "kustomization.yaml"
TIMES_OF_A_STOP = ("--drain-delay", "--drain-timeout", "--linger")
TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"

Object = dict[str, Any]


class Variant(NamedTuple):
    """One way to install: the DaemonSet and the ConfigMap that reach the cluster, and the health port."""

    daemonset: Object
    configmap: Object
    health_port: int


def documents(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def of_kind(path: Path, kind: str) -> Object:
    (found,) = (document for document in documents(path) if document["kind"] == kind)
    return found


def merged(value: Any, patch: Any) -> Any:
    """As much of a strategic merge patch as the overlay needs."""
    if isinstance(patch, dict) and isinstance(value, dict):
        fields = value | {name: merged(value.get(name), item) for name, item in patch.items()}
        return {name: item for name, item in fields.items() if item is not None}
    if not isinstance(patch, list) or not isinstance(patch[0], dict):
        return patch
    key = "containerPort" if "containerPort" in patch[0] else "name"
    items = {item[key]: item for item in value}
    for item in patch:
        items[item[key]] = None if "$patch" in item else merged(items.get(item[key]), item)
    return [item for item in items.values() if item is not None]


def renamed(daemonset: Object) -> Object:
    """What the overlay's suffix and labels make of it."""
    name = f"userproxy{yaml.safe_load((OVERLAY / KUSTOMIZATION).read_text())['nameSuffix']}"
    labels = {"app.kubernetes.io/name": name}
    template = daemonset["spec"]["template"]
    pod = template["spec"] | {"serviceAccountName": name}
    pod["volumes"] = [
        volume | ({"configMap": {"name": name}} if "configMap" in volume else {}) for volume in pod["volumes"]
    ]
    spec = daemonset["spec"] | {"selector": {"matchLabels": labels}}
    spec["template"] = {"metadata": {"labels": labels}, "spec": pod}
    return {**daemonset, "spec": spec}


def container(daemonset: Object) -> Object:
    (only,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def flags(daemonset: Object) -> dict[str, str]:
    program, command, *rest = container(daemonset)["command"]
    assert (program, command) == ("userproxy", "run")
    return dict(flag.split("=", 1) for flag in rest)


def rules_of(role: Object) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def read(resource: Resource) -> set[tuple[str, str, str]]:
    group = resource.api_version.rpartition("/")[0]
    return {(group, resource.plural, verb) for verb in ("list", "watch")}


@pytest.fixture
def daemonset() -> Object:
    return of_kind(BASE / "daemonset.yaml", "DaemonSet")


@pytest.fixture
def pod(daemonset: Object) -> Object:
    spec = daemonset["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.fixture(params=[BASE, OVERLAY], ids=["base", "one-service"])
def variant(request: pytest.FixtureRequest) -> Variant:
    daemonset, configmap = (of_kind(BASE / f"{kind.lower()}.yaml", kind) for kind in ("DaemonSet", "ConfigMap"))
    if request.param == BASE:
        return Variant(daemonset, configmap, HEALTHZ_PORT)
    patches = (of_kind(OVERLAY / f"{kind.lower()}.yaml", kind) for kind in ("DaemonSet", "ConfigMap"))
    return Variant(renamed(merged(daemonset, next(patches))), merged(configmap, next(patches)), HEALTHZ_PORT + 100)


@pytest.mark.parametrize("path", sorted(KUBERNETES.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_document_says_what_it_is(path: Path) -> None:
    found = documents(path)
    assert found
    for document in found:
        assert document["apiVersion"]
        assert document["kind"]
        assert path.name == KUSTOMIZATION or document["metadata"]["name"] == "userproxy"


def test_the_kustomizations_list_exactly_the_files_beside_them() -> None:
    base = yaml.safe_load((BASE / KUSTOMIZATION).read_text())
    assert {*base["resources"], KUSTOMIZATION} == {path.name for path in BASE.iterdir()}
    overlay = yaml.safe_load((OVERLAY / KUSTOMIZATION).read_text())
    assert overlay["resources"] == ["../base"]
    assert {*(patch["path"] for patch in overlay["patches"]), KUSTOMIZATION} == {
        path.name for path in OVERLAY.iterdir()
    }


def test_kubectl_makes_of_it_what_these_tests_look_at(variant: Variant) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl")
    directory = BASE if variant.health_port == HEALTHZ_PORT else OVERLAY
    command = [kubectl, "kustomize", str(directory)]
    built = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    objects = {item["kind"]: item for item in yaml.safe_load_all(built)}
    assert len(objects) == 5
    own = variant.daemonset["spec"]["template"]["spec"]["serviceAccountName"]
    assert {item["metadata"]["name"] for item in objects.values()} == {own}, "the two installations share nothing"
    assert objects["ClusterRoleBinding"]["subjects"][0]["name"] == own
    assert objects["ClusterRoleBinding"]["roleRef"]["name"] == own
    assert container(objects["DaemonSet"])["image"] == "userproxy:0.1.0"
    container(objects["DaemonSet"])["image"] = "userproxy"
    assert objects["DaemonSet"]["spec"] == variant.daemonset["spec"]
    assert objects["ConfigMap"]["data"] == variant.configmap["data"]


def test_the_role_allows_what_is_read_and_events_and_nothing_else() -> None:
    allowed = rules_of(of_kind(BASE / "rbac.yaml", "ClusterRole"))
    wanted = read(services(None)) | read(endpoint_slices()) | read(own_node("any"))
    assert allowed == wanted | {("events.k8s.io", "events", verb) for verb in ("create", "patch")}


def test_the_role_is_bound_to_the_account_that_the_pods_use(pod: Object) -> None:
    account = of_kind(BASE / "serviceaccount.yaml", "ServiceAccount")["metadata"]
    role = of_kind(BASE / "rbac.yaml", "ClusterRole")["metadata"]["name"]
    binding = of_kind(BASE / "rbac.yaml", "ClusterRoleBinding")
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account}]
    assert pod["serviceAccountName"] == account["name"]


def test_a_node_keeps_its_proxy_whatever_happens_to_it(daemonset: Object, pod: Object) -> None:
    assert pod["hostNetwork"] is True
    assert pod["dnsPolicy"] == "Default"
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    rolling = {"maxSurge": 1, "maxUnavailable": 0}
    assert daemonset["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}
    assert daemonset["spec"]["minReadySeconds"] > 0
    assert {"requests", "limits"} <= container(daemonset)["resources"].keys()


def test_it_may_do_no_more_than_it_must(daemonset: Object, pod: Object) -> None:
    context = container(daemonset)["securityContext"]
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"]["add"]) == {"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"}
    host_paths = [volume["hostPath"] for volume in pod["volumes"] if "hostPath" in volume]
    assert host_paths == [
        {"path": "/run/userproxy", "type": "DirectoryOrCreate"},  # where the next Pod of the node asks
        {"path": "/run/xtables.lock", "type": "FileOrCreate"},
    ]
    assert not {"hostPID", "hostIPC"} & pod.keys()


def test_every_volume_is_mounted_and_every_mount_has_one(daemonset: Object, pod: Object) -> None:
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert sorted(mount["name"] for mount in container(daemonset)["volumeMounts"]) == sorted(volumes)


def test_the_command_has_flags_that_exist(variant: Variant) -> None:
    offered = CliRunner().invoke(main, ["run", "--help"]).output
    assert flags(variant.daemonset).keys() <= set(re.findall(r"--[a-z][a-z-]*|--v\b", offered))


def test_the_node_is_named_by_the_downward_api(variant: Variant) -> None:
    assert flags(variant.daemonset)["--hostname-override"] == "$(NODE_NAME)"
    assert container(variant.daemonset)["env"] == [
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    ]


def test_there_is_time_to_drain_and_remove_the_rules(variant: Variant) -> None:
    grace = variant.daemonset["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    times = {name: parse_duration(flags(variant.daemonset)[name]) for name in TIMES_OF_A_STOP}
    assert grace >= times["--drain-timeout"] + max(times["--drain-delay"], times["--linger"]) + 10
    assert flags(variant.daemonset)["--at-stop"] == "leave"


def test_the_probes_ask_where_health_is_served(variant: Variant) -> None:
    main_container = container(variant.daemonset)
    given = decode(variant.configmap["data"]["config.yaml"].encode()).given
    assert "ports" not in main_container, "they would be host ports, and a node has each once"
    assert given["healthzBindAddress"] == f"0.0.0.0:{variant.health_port}"
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/healthz")):
        assert main_container[probe]["httpGet"] == {"path": path, "port": variant.health_port}


def test_one_service_leaves_kube_proxy_its_ports_and_its_nodes() -> None:
    ports = re.findall(r"BindAddress: \S+:(\d+)", (OVERLAY / "configmap.yaml").read_text())
    assert len(set(ports)) == 2
    assert not {str(HEALTHZ_PORT), str(METRICS_PORT)} & set(ports)


def test_one_service_differs_by_one_flag() -> None:
    base = flags(of_kind(BASE / "daemonset.yaml", "DaemonSet"))
    overlay = flags(of_kind(OVERLAY / "daemonset.yaml", "DaemonSet"))
    assert overlay == base | {"--service-proxy-name": "userproxy"}


def test_a_label_selects_the_nodes_to_replace_and_beside_kube_proxy_there_is_none(variant: Variant) -> None:
    selector = variant.daemonset["spec"]["template"]["spec"]["nodeSelector"]
    beside = "--service-proxy-name" in flags(variant.daemonset)
    assert selector == {"kubernetes.io/os": "linux"} | ({} if beside else {"userproxy.io/node": "true"})
    terms = [{"matchExpressions": [{"key": "userproxy.io/node", "operator": "DoesNotExist"}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    assert variant.daemonset["spec"]["template"]["spec"].get("affinity") == (
        {"nodeAffinity": required} if beside else None
    )


def test_the_command_and_its_configuration_are_valid_and_all_of_it_counts(variant: Variant, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(variant.configmap["data"]["config.yaml"])
    given = flags(variant.daemonset) | {"--config": str(config), "--hostname-override": "node-1"}
    loaded = load({flag.removeprefix("--"): text for flag, text in given.items()})
    assert loaded.notices == ()
    assert loaded.settings.hostname_override == "node-1"
    assert loaded.settings.proxy_name == given.get("--service-proxy-name")


def test_the_files_are_where_the_command_and_the_configuration_say(variant: Variant) -> None:
    (mount,) = (item for item in container(variant.daemonset)["volumeMounts"] if item["name"] == "config")
    assert flags(variant.daemonset)["--config"] == f"{mount['mountPath']}/config.yaml"
    given = decode(variant.configmap["data"]["config.yaml"].encode()).given
    assert given["clientConnection.kubeconfig"] == f"{mount['mountPath']}/kubeconfig"
    assert variant.configmap["data"].keys() == {"config.yaml", "kubeconfig"}


def test_the_kubeconfig_has_the_accounts_token_and_no_secret(variant: Variant) -> None:
    kubeconfig = yaml.safe_load(variant.configmap["data"]["kubeconfig"])
    (cluster,), (user,), (context,) = kubeconfig["clusters"], kubeconfig["users"], kubeconfig["contexts"]
    assert kubeconfig["current-context"] == context["name"]
    assert context["context"] == {"cluster": cluster["name"], "user": user["name"]}
    assert user["user"] == {"tokenFile": f"{TOKENS}/token"}
    assert cluster["cluster"]["certificate-authority"] == f"{TOKENS}/ca.crt"
    assert cluster["cluster"]["server"].startswith("https://")


def test_pods_of_the_node_are_recognised(variant: Variant) -> None:
    given = decode(variant.configmap["data"]["config.yaml"].encode()).given
    assert given["detectLocalMode"] == "NodeCIDR"


def test_the_image_works_with_manifests_that_name_no_user_as_kube_proxys_do() -> None:
    assert "USER" not in re.findall(r"^([A-Z]+) ", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)


def test_images_name_no_registry() -> None:
    names = re.findall(r"^FROM (\S+)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    names.append(container(of_kind(BASE / "daemonset.yaml", "DaemonSet"))["image"])
    assert len(names) == 3
    assert not any("/" in name for name in names)


def test_the_image_is_built_from_files_that_the_build_gets() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {name for line in copied for name in line.split()}
    let_in = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == let_in
    assert all((PROJECT / name).exists() for name in sources)


@pytest.mark.e2e
@pytest.mark.parametrize("iptables", ["legacy", "nft"])
def test_the_capabilities_are_enough(lab: Lab, daemonset: Object, iptables: str) -> None:
    added = container(daemonset)["securityContext"]["capabilities"]["add"]
    bounds = ",".join(["-all", *(f"+{name.lower()}" for name in added)])
    lab.node.run([f"iptables-{iptables}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"])
    lab.serve_http()
    lab.manifests.service("web", ports=[Port(80)], cluster_ip="10.96.0.10", node_port=80)
    lab.manifests.slice("web", lab.pods, ports=[Port(80)])
    limited = ["setpriv", f"--bounding-set={bounds}", "--no-new-privs", installed_command(), "run"]
    source = ["--manifests", str(lab.manifests.directory), "--portals", "iptables"]
    with Program(lab.node, [*limited, *source, "--iptables-min-sync-period", "0s", "-v", "2"]) as proxy:
        assert f'"variant": "{iptables}"' in proxy.wait_line('"family": "IPv4", "variant"')
        proxy.wait_line('"listeners": 1', 10)
        assert fetch(lab.client, ("10.96.0.10", 80)).pod
        # A small change of legacy tables goes another way than the first sync, through python-iptables.
        lab.manifests.slice("more", lab.pods, ports=[Port(80)])
        lab.manifests.service("more", ports=[Port(80)], cluster_ip="10.96.0.11")
        lab.node.wait_for_rules("10.96.0.11") if iptables == "nft" else proxy.wait_line('"listeners": 2', 10)
        assert proxy.terminate() == 0
    assert "KUBE-PORTALS" not in lab.node.run([f"iptables-{iptables}-save"]).stdout
    assert not [line for line in proxy.lines if '"error"' in line or '"warning"' in line]

"""What is asked of the API server: paths, selectors, and the RBAC rule that allows it."""

import pytest

from userproxy.cluster.objects.resources import Resource, all_nodes, endpoint_slices, own_node, services
from userproxy.cluster.objects.schema import RawEndpointSlice, RawNode, RawService
from userproxy.model import EndpointSlice, Node, Service


@pytest.mark.parametrize(
    ("resource", "path", "selectors"),
    [
        (
            services(None),
            "/api/v1/services",
            {"labelSelector": "!service.kubernetes.io/service-proxy-name", "fieldSelector": "spec.clusterIP!=None"},
        ),
        (
            services("mine"),
            "/api/v1/services",
            {"labelSelector": "service.kubernetes.io/service-proxy-name=mine", "fieldSelector": "spec.clusterIP!=None"},
        ),
        (
            endpoint_slices(),
            "/apis/discovery.k8s.io/v1/endpointslices",
            {"labelSelector": "!service.kubernetes.io/headless"},
        ),
        (own_node("worker-1"), "/api/v1/nodes", {"fieldSelector": "metadata.name=worker-1"}),
        (all_nodes(), "/api/v1/nodes", {}),
    ],
    ids=["services", "services of a proxy", "slices", "own node", "all nodes"],
)
def test_path_and_selectors(resource: Resource, path: str, selectors: dict[str, str]) -> None:
    assert resource.path == path
    assert resource.selectors == selectors


def test_a_proxy_may_be_named_by_no_text_at_all() -> None:
    """An empty name selects an empty label, and not what has none."""
    assert services("").label_selector == "service.kubernetes.io/service-proxy-name="


def test_what_objects_become() -> None:
    kinds = [(each.kind, each.shape) for each in (services(None), endpoint_slices(), own_node("n"), all_nodes())]
    assert kinds == [(Service, RawService), (EndpointSlice, RawEndpointSlice), (Node, RawNode), (Node, RawNode)]


@pytest.mark.parametrize(
    ("resource", "rule"),
    [
        (services(None), 'apiGroups: [""], resources: ["services"], verbs: ["list", "watch"]'),
        (
            endpoint_slices(),
            'apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list", "watch"]',
        ),
        (own_node("n"), 'apiGroups: [""], resources: ["nodes"], verbs: ["list", "watch"]'),
    ],
    ids=["services", "slices", "node"],
)
def test_the_rule_that_allows_it(resource: Resource, rule: str) -> None:
    assert resource.rule == rule

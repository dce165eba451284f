"""The resources that are read from the API server, with their selectors.

The selectors are those of kube-proxy 1.36: objects that no proxy serves are not even sent.
"""

from typing import Any

from msgspec import Struct

from userproxy.cluster.objects import schema
from userproxy.cluster.objects.keys import ClusterObject
from userproxy.model import EndpointSlice, Node, Service

_PROXY_NAME = "service.kubernetes.io/service-proxy-name"


class Resource(Struct, frozen=True):
    """One kind of object: its type here, its shape and place in the API, and the selectors of those that are read."""

    kind: type[ClusterObject]
    shape: type[Any]
    api_version: str
    plural: str
    label_selector: str = ""
    field_selector: str = ""

    @property
    def path(self) -> str:
        """The path of its URL."""
        root = "/apis" if "/" in self.api_version else "/api"
        return f"{root}/{self.api_version}/{self.plural}"

    @property
    def selectors(self) -> dict[str, str]:
        """The selectors as parameters of a URL."""
        both = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: text for name, text in both.items() if text}

    @property
    def rule(self) -> str:
        """The RBAC rule that lets us read it."""
        group = self.api_version.rpartition("/")[0]
        return f'apiGroups: ["{group}"], resources: ["{self.plural}"], verbs: ["list", "watch"]'


def services(proxy_name: str | None) -> Resource:
    """All Services that are not headless and that no other proxy is named for, or those named for `proxy_name`."""
    label = f"!{_PROXY_NAME}" if proxy_name is None else f"{_PROXY_NAME}={proxy_name}"
    return Resource(Service, schema.RawService, "v1", "services", label, "spec.clusterIP!=None")


def endpoint_slices() -> Resource:
    """All EndpointSlices but those of headless Services. They do not say which proxy their Service names."""
    return Resource(
        EndpointSlice,
        schema.RawEndpointSlice,
        "discovery.k8s.io/v1",
        "endpointslices",
        label_selector="!service.kubernetes.io/headless",
    )


def own_node(name: str) -> Resource:
    """The one Node called `name`."""
    return Resource(Node, schema.RawNode, "v1", "nodes", field_selector=f"metadata.name={name}")


def all_nodes() -> Resource:
    """Every Node. That costs much, since each has kilobytes that no proxy reads."""
    return Resource(Node, schema.RawNode, "v1", "nodes")

"""The resources that the server knows, and what a path means."""

from msgspec import Struct


class Resource(Struct, frozen=True):
    """One kind of object and where the API keeps it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def base(self) -> str:
        """The path of its group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def qualified(self) -> str:
        """How Status messages name it: ``endpointslices.discovery.k8s.io``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


RESOURCES = (
    Resource("", "v1", "services", "Service"),
    Resource("", "v1", "endpoints", "Endpoints"),
    Resource("", "v1", "nodes", "Node", namespaced=False),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    Resource("events.k8s.io", "v1", "events", "Event"),
)


class Target(Struct, frozen=True):
    """What a path names: a collection where `name` is empty, all namespaces where `namespace` is."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def resource_of(kind_or_plural: str) -> Resource:
    """By kind or plural. Raises KeyError for one that the server does not keep."""
    for resource in RESOURCES:
        if kind_or_plural in (resource.kind, resource.plural):
            return resource
    raise KeyError(kind_or_plural)


def parse_path(path: str) -> Target | None:
    """What `path` names; None where it is no path of a known resource."""
    for resource in RESOURCES:
        if not path.startswith(f"{resource.base}/"):
            continue
        parts = path.removeprefix(f"{resource.base}/").rstrip("/").split("/")
        namespace = ""
        if resource.namespaced and len(parts) > 2 and parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        if parts[0] == resource.plural and len(parts) <= 3:
            name, subresource = [*parts[1:], "", ""][:2]
            return Target(resource, namespace, name, subresource)
    return None

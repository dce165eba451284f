"""A core/v1 Node, from the API's shape to the model's."""

from userproxy.cluster.objects import schema
from userproxy.cluster.objects.validation import Checker
from userproxy.model import Node


def decode_node(item: schema.RawNode, checker: Checker) -> Node:
    """A core/v1 Node: internal addresses before external ones, other types (Hostname) left out.

    An address or a network that is malformed is left out.
    """
    metadata = item.metadata or schema.RawMetadata()
    labels = metadata.labels or schema.RawLabels()
    spec = item.spec or schema.RawNodeSpec()
    found = (item.status.addresses or []) if item.status else []
    cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    addresses = (
        checker.attempt(checker.host, f"status.addresses[{index}].address", entry.address or "")
        for wanted in ("InternalIP", "ExternalIP")
        for index, entry in enumerate(found)
        if entry.type == wanted
    )
    networks = (checker.attempt(checker.network, f"spec.podCIDRs[{index}]", cidr) for index, cidr in enumerate(cidrs))
    return Node(
        name=checker.subdomain("metadata.name", checker.present("metadata.name", metadata.name)),
        addresses=tuple(address for address in addresses if address),
        zone=labels.zone or None,
        pod_cidrs=tuple(network for network in networks if network),
        deleting=bool(metadata.deletion_timestamp),
        taints=tuple(taint.key for taint in spec.taints or () if taint.key),
        labelled=labels.userproxy is not None,
    )

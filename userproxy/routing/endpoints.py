"""Which endpoints of a service port may get new connections."""

from collections.abc import Iterable

from userproxy.model import Endpoint, EndpointSlice, Protocol


def eligible_endpoints(slices: Iterable[EndpointSlice], port_name: str, protocol: Protocol) -> tuple[Endpoint, ...]:
    """The ready IPv4 endpoints of the slices whose port matches by name and protocol, sorted, each once.

    The slice's port number is the destination; a Service's ``targetPort`` plays no part. An endpoint
    that two slices list (it is just moving from one to the other) is eligible if either says so.
    """
    return tuple(
        sorted(
            {
                Endpoint(endpoint.address, port.port)
                for slice_ in slices
                if slice_.address_type == "IPv4"
                for port in slice_.ports
                if port.name == port_name and port.protocol == protocol
                for endpoint in slice_.endpoints
                if endpoint.ready
            }
        )
    )

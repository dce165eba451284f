"""How much of new connections endpoints get: by the annotation of their slices, and by hints. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from userproxy.model import Endpoint, ServiceState, SliceEndpoint
from userproxy.routing.selection import Locality, hinted

_ALIKE: Final[Mapping[Endpoint, int]] = {}


def weights_of(
    state: ServiceState,
    found: Mapping[Endpoint, SliceEndpoint],
    listed: Sequence[Endpoint],
    locality: Locality,
) -> Mapping[Endpoint, int]:
    """The weights that are not 1 of the endpoints that slices name, `found`.

    Of `listed`, those of the cluster's list, the ones that are hinted to us weigh more by the Service's hint weight,
    where hints would have left others out. A hint says for whom an endpoint is meant, and nothing of how much it can
    take: so it makes a weight only where the Service says which.
    """
    hint_weight = state.service.hint_weight
    if hint_weight is None and not any(each.weighted for each in state.slices):
        return _ALIKE
    weights = {endpoint: source.weight for endpoint, source in found.items()}
    if hint_weight is not None:
        near = hinted([each for each in listed if found[each].ready], found, locality)
        if len(near) < len(listed):
            weights |= {endpoint: weights[endpoint] * hint_weight for endpoint in near}
    return {endpoint: weight for endpoint, weight in weights.items() if weight != 1}


def in_order(weights: Mapping[Endpoint, int], endpoints: Sequence[Endpoint]) -> tuple[int, ...]:
    """The weight of each endpoint, nothing where they are all alike."""
    found = tuple(weights.get(endpoint, 1) for endpoint in endpoints)
    return found if len(set(found)) > 1 else ()


def with_weight(endpoints: Sequence[Endpoint], weights: Sequence[int]) -> Sequence[Endpoint]:
    """Those that get new connections: the ones whose weight is not 0, or all if there is none."""
    return [each for each, weight in zip(endpoints, weights, strict=True) if weight] if any(weights) else endpoints

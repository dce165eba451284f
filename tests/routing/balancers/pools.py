"""Endpoints, clients and pools for the tests of balancers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random

from msgspec import Struct

from userproxy.model import Endpoint
from userproxy.routing.balancers.interface import Load, Method, Pool

CLIENTS = [f"10.{n >> 8 & 255}.{n & 255}.{n % 251 + 1}" for n in range(4000)] + [
    f"2001:db8::{n:x}" for n in range(2000)
]


class Busy(Struct):
    """What an endpoint has to do."""

    active: int = 0
    total: int = 0
    bytes_down: int = 0


def endpoints(count: int) -> list[Endpoint]:
    return [Endpoint(f"10.244.{n >> 8}.{n & 255}", 8080) for n in range(1, count + 1)]


def pool(
    endpoints: Sequence[Endpoint], weights: Sequence[int] = (), seed: int = 1, loads: Mapping[Endpoint, Load] = {}
) -> Pool:
    return Pool(endpoints, weights or [1] * len(endpoints), Random(seed), loads)


def shares(method: Method, clients: Sequence[str] = CLIENTS) -> Counter[Endpoint]:
    """How many of the clients each endpoint gets."""
    return Counter(method.choose(client, 0.0) for client in clients)


def bounds(count: int, weight: int, of: int) -> tuple[float, float]:
    """Within six standard deviations of what `weight` of `of` should get of `count` independent choices."""
    share = weight / of
    mean, deviation = count * share, (count * share * (1 - share)) ** 0.5
    return mean - 6 * deviation, mean + 6 * deviation


def moved(before: Callable[[str], Endpoint], after: Callable[[str], Endpoint], left: Endpoint) -> int:
    """How many clients have another endpoint than before although theirs is not the one that has left."""
    return sum(before(client) not in {left, after(client)} for client in CLIENTS)

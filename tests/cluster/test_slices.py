"""A list that is fetched again leaves the loop to traffic in between, however long it is."""

from examples.benchmarks.control_plane import cluster
from examples.benchmarks.control_server import serving
from tests.cluster.following import following, until
from tests.turns import watched_turns

MANY = 10_000
TURN = 0.012
"""Six slices, and a quarter of what it takes to compare as many Services and slices at once: seconds."""


async def test_a_re_list_is_compared_in_slices() -> None:
    with serving(cluster(MANY)) as server:
        async with following(server.url) as followed:
            await until(lambda: len(followed.state) == MANY and server.watches("endpointslices") > 0, 60)
            calls = followed.calls
            async with watched_turns() as turns:
                for plural in ("services", "endpointslices"):
                    watches = server.watches(plural)
                    server.expire(plural)
                    await until(lambda: server.watches(plural) > watches, 60)  # noqa: B023
            assert followed.calls == calls, "nothing has changed"
    assert turns.longest < TURN

"""Weights of endpoints, by slices and by hints."""

from msgspec.structs import replace

from tests.routing.notation import HTTP, PORT, a_slice, locality, parse
from tests.routing.test_services import NODE_PORT, WEB, routed, the_port
from userproxy.model import Endpoint, EndpointSlice, Problem, ProblemKind, SliceEndpoint
from userproxy.routing.services import MOST_BAD_SLICES, Scope
from userproxy.routing.weights import in_order, with_weight

A, B, C = (Endpoint(f"10.244.0.{n}", PORT) for n in (1, 2, 3))


def weighted(*weights: int) -> EndpointSlice:
    endpoints = [SliceEndpoint(f"10.244.0.{number}", weight=weight) for number, weight in enumerate(weights, 1)]
    return replace(a_slice(*endpoints), weighted=True)


def test_without_weights_there_are_none() -> None:
    assert the_port(WEB, a_slice(SliceEndpoint("10.244.0.1"))).routes[0].weights == ()


def test_a_route_has_those_of_its_endpoints_in_their_order() -> None:
    assert the_port(WEB, weighted(3, 1, 0)).routes[0].weights == (3, 1, 0)


def test_where_all_are_alike_there_are_none() -> None:
    assert the_port(WEB, weighted(3, 3)).routes[0].weights == ()
    assert the_port(WEB, weighted(0, 0)).routes[0].weights == ()


def test_both_lists_have_theirs() -> None:
    slice_ = weighted(3, 1, 2)
    here = tuple(replace(each, node="n1") if each.weight > 1 else each for each in slice_.endpoints)
    routes = the_port(replace(NODE_PORT, external_local=True), replace(slice_, endpoints=here)).routes
    assert [(route.endpoints, route.weights) for route in routes] == [((A, B, C), (3, 1, 2)), ((A, C), (3, 2))]


class TestHints:
    """``Service.hint_weight``: who is hinted to us weighs more, and nobody is left out."""

    SCOPE = Scope(locality=locality(zone="A"))

    def weights(
        self, text: str, hint_weight: int | None, scope: Scope = SCOPE
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        route = the_port(replace(WEB, hint_weight=hint_weight), a_slice(*parse(text).values()), scope=scope).routes[0]
        return tuple(each.ip for each in route.endpoints), route.weights

    def test_without_one_hints_leave_others_out(self) -> None:
        assert self.weights("Rr(zA) Rr(zB)", None) == (("10.244.0.1",), ())

    def test_with_one_others_get_less(self) -> None:
        assert self.weights("Rr(zA) Rr(zB)", 5) == (("10.244.0.1", "10.244.0.2"), (5, 1))

    def test_one_of_1_has_hints_not_count_at_all(self) -> None:
        assert self.weights("Rr(zA) Rr(zB)", 1) == (("10.244.0.1", "10.244.0.2"), ())

    def test_where_hints_would_not_count_they_make_no_weights(self) -> None:
        assert self.weights("Rr(zA) Rr", 5) == (("10.244.0.1", "10.244.0.2"), ())

    def test_a_hint_to_our_node_comes_before_one_to_our_zone(self) -> None:
        assert self.weights("Rr(zA,n1) Rr(zA,n2)", 5) == (("10.244.0.1", "10.244.0.2"), (5, 1))

    def test_both_kinds_are_multiplied(self) -> None:
        slice_ = a_slice(*(replace(each, weight=2) for each in parse("Rr(zA) Rr(zB)").values()), ports=(HTTP,))
        route = the_port(replace(WEB, hint_weight=5), replace(slice_, weighted=True), scope=self.SCOPE).routes[0]
        assert route.weights == (10, 2)

    def test_those_who_terminate_have_no_hints(self) -> None:
        assert self.weights("Sr(zA) Sl(zB)", 5) == (("10.244.0.1", "10.244.0.2"), ())


def test_a_bad_annotation_of_a_slice_is_a_problem_of_its_service() -> None:
    slice_ = replace(a_slice(SliceEndpoint("10.244.0.1")), bad_annotations=("EndpointSlice default/web-1: bad",))
    problem = Problem(WEB.key, ProblemKind.BAD_ANNOTATION, "EndpointSlice default/web-1: bad")
    assert routed(WEB, slice_).left_out == (problem,)


def test_of_thousands_of_slices_with_bad_annotations_a_few_are_named() -> None:
    slices = [
        replace(a_slice(SliceEndpoint("10.244.0.1")), name=f"web-{number}", bad_annotations=(f"slice {number}: bad",))
        for number in range(200)
    ]
    assert len(routed(WEB, *slices).left_out) == MOST_BAD_SLICES


def test_weights_in_the_order_of_endpoints() -> None:
    assert in_order({A: 3}, (B, A, C)) == (1, 3, 1)
    assert in_order({A: 3}, (A,)) == ()


def test_who_has_a_weight() -> None:
    assert with_weight((A, B, C), (0, 2, 0)) == [B]
    assert with_weight((A, B), (0, 0)) == (A, B)

"""What rules are on kernels that lack a part, and how that is found out."""

from structlog.testing import capture_logs

from userproxy.portals.iptables.chains import FILTER, NAT, PORTALS_FILTER, PORTALS_HOST, PROBE, Rule, jump_rules
from userproxy.portals.iptables.changes import Change
from userproxy.portals.iptables.features import ADDRTYPE, FEATURES, REJECT, Probe, adapted, adapted_jumps
from userproxy.portals.iptables.writers.restore import ConflictError

SERVED = Rule(NAT, PORTALS_HOST, "-d 10.96.0.10/32 -p tcp -j DNAT --to-destination 192.0.2.10:4000")
LOCAL = Rule(NAT, PORTALS_HOST, "-p tcp -m addrtype --dst-type LOCAL -j DNAT --to-destination 192.0.2.10:4000")
REFUSED = Rule(FILTER, PORTALS_FILTER, "-d 10.96.0.11/32 -p tcp -j REJECT --reject-with tcp-reset")


def test_a_whole_kernel_gets_the_rules_as_they_are() -> None:
    assert adapted((SERVED, LOCAL, REFUSED), ()) == (SERVED, LOCAL, REFUSED)
    assert adapted_jumps(jump_rules(), ()) == jump_rules()


def test_what_cannot_be_refused_is_dropped_and_never_let_past() -> None:
    dropped = Rule(FILTER, PORTALS_FILTER, "-d 10.96.0.11/32 -p tcp -j DROP")
    assert adapted((SERVED, LOCAL, REFUSED), {REJECT}) == (SERVED, LOCAL, dropped)


def test_other_rules_of_a_part_that_is_missing_are_left_out() -> None:
    assert adapted((SERVED, LOCAL, REFUSED), {ADDRTYPE}) == (SERVED, REFUSED)
    left = adapted_jumps(jump_rules(), {ADDRTYPE})
    assert {jump.target for jump in jump_rules()} - {jump.target for jump in left} == {
        "KUBE-NODEPORT-CONTAINER",
        "KUBE-NODEPORT-HOST",
    }


class Kernel:
    """A writer that refuses rules with any of the texts in `lacks`, and remembers which chains there are."""

    def __init__(self, *lacks: str) -> None:
        self.lacks = set(lacks)
        self.chains: set[str] = set()

    def apply(self, change: Change) -> None:
        for block in change:
            assert (block.table, {edit.chain for edit in block.edits} | set(block.fresh)) == (FILTER, {PROBE})
            if any(text in edit.spec for edit in block.edits for text in self.lacks):
                raise ConflictError("No chain/target/match by that name")
            self.chains = (self.chains | set(block.fresh)) - set(block.drop)


def test_what_is_missing_is_found_without_a_trace_and_said_once() -> None:
    kernel = Kernel("REJECT")
    probe = Probe(kernel, "iptables-nft")
    with capture_logs() as logs:
        assert [probe.look(), probe.look()] == [True, False]
    assert probe.missing == {REJECT}
    assert not kernel.chains
    assert [(record["log_level"], record["modules"]) for record in logs] == [("warning", REJECT.modules)]
    kernel.lacks.clear()
    with capture_logs() as logs:
        assert probe.look()
    assert probe.missing == frozenset()
    assert [record["event"] for record in logs] == ["This kernel takes rules with -j REJECT now"]


def test_a_table_that_refuses_everything_says_nothing_of_its_parts() -> None:
    probe = Probe(Kernel("-j"), "iptables-nft")
    assert not probe.look()
    assert probe.missing == frozenset()


def test_it_looks_again_after_some_minutes_and_only_while_something_is_missing() -> None:
    times = iter([0.0, 299.0, 301.0, 301.0])
    kernel = Kernel(*(feature.mark for feature in FEATURES))
    probe = Probe(kernel, "iptables-nft", lambda: next(times))
    assert not probe.due, "nothing is known to be missing"
    probe.look()
    assert probe.missing == set(FEATURES)
    assert [probe.due, probe.due] == [False, True]
    kernel.lacks.clear()
    probe.look()
    assert not probe.due, "nothing is missing"

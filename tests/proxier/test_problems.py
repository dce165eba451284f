"""What is not served: what is said of it, and when."""

import pytest
from structlog.testing import capture_logs

from tests.proxier.test_plan import a_name
from userproxy.errors import PortUnavailableError
from userproxy.model import IPFamily, ListenerName, Portal, PortalKind, Problem, ProblemKind, Protocol
from userproxy.proxier.plan import Claim, ClaimPort, CloseListener, OpenListener
from userproxy.proxier.problems import Problems, action_refused, portals_refused

WEB = a_name("web")
LISTENER = ListenerName(WEB)
REFUSED = PortUnavailableError("another program holds it")


def problem(text: str) -> Problem:
    return Problem(WEB.service, ProblemKind.PORT_CONFLICT, text)


def told(problems: Problems) -> list[tuple[str, str, object]]:
    with capture_logs() as logs:
        problems.tell()
    return [(entry["log_level"], entry.get("problem", entry["event"]), entry["family"]) for entry in logs]


@pytest.mark.parametrize("family", list(IPFamily))
def test_what_comes_and_goes_is_told_once(family: IPFamily) -> None:
    problems, one, other = Problems(family), problem("one"), problem("other")
    problems.put("a", (one, other))
    problems.put("b", (one,))
    assert told(problems) == [("warning", "one", family), ("warning", "other", family)]
    assert problems.told == {one, other}
    assert told(problems) == []
    problems.put("a", (one,))
    problems.put("b", ())
    assert told(problems) == [("info", "other", family)]
    assert problems.told == {one}


def test_what_was_different_only_in_between_is_not_told() -> None:
    problems = Problems(IPFamily.IPV4)
    problems.put("a", (problem("one"),))
    problems.tell()
    problems.put("a", ())
    problems.put("a", (problem("one"),))
    assert told(problems) == []
    problems.put("b", (problem("two"),))
    problems.put("b", ())
    assert told(problems) == []
    assert problems.told == {problem("one")}


def test_a_port_that_cannot_be_had_is_a_problem_of_its_service_on_this_node() -> None:
    portal = Portal(PortalKind.NODE_PORT, "", 30080)
    claim = ClaimPort(Claim("", Protocol.TCP, 30080), portal, WEB)
    assert action_refused(claim, REFUSED, IPFamily.IPV6) == (
        Problem(
            WEB.service,
            ProblemKind.PORT_CONFLICT,
            f"default/web:http: {portal} (TCP) is not served over IPv6: another program holds it",
            here=True,
        ),
    )
    text = f"{LISTENER}: not served: another program holds it"
    assert action_refused(OpenListener(LISTENER), REFUSED, IPFamily.IPV4) == (
        Problem(WEB.service, ProblemKind.PORT_CONFLICT, text, here=True),
    )


def test_an_action_that_needs_no_port_is_not_refused_one() -> None:
    with pytest.raises(PortUnavailableError):
        action_refused(CloseListener(LISTENER), REFUSED, IPFamily.IPV4)


def test_refused_rules_name_service_port_family_and_reason() -> None:
    (found,) = portals_refused(WEB, "line 3 failed", IPFamily.IPV6)
    assert (found.service, found.kind) == (WEB.service, ProblemKind.PORTALS_REFUSED)
    assert found.text.startswith("default/web:http: its portals are not served over IPv6")
    assert found.text.endswith(": line 3 failed")


def test_portals_that_nobody_may_listen_at_are_no_refused_rules() -> None:
    (found,) = portals_refused(WEB, "10.96.0.10:22/TCP: sshd has it", IPFamily.IPV4, are_rules=False)
    assert found.text == f"{WEB}: not all its portals are served over IPv4: 10.96.0.10:22/TCP: sshd has it"

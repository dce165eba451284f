"""A proxy that has two Services, some connections and decisions, and a problem."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.planes import DNS, ONE, TWO, WEB, Served, connection
from tests.cli.inspect.asking import decision
from tests.cli.served import Running, running
from userproxy.model import ListenerName, Problem, ProblemKind
from userproxy.model.reports import (
    Attempt,
    ConnectionState,
    DialTimes,
    EndpointFigures,
    ListenerFigures,
    Outcome,
)
from userproxy.model.snapshots import Verdict


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as found:

        def fill(api: Served) -> None:
            api.control.add(WEB, ONE, TWO)
            api.control.add(DNS, ip="10.96.0.53", port=53)
            dial = DialTimes((0.001, 0.01), (4, 0, 0), 0.002)
            figures = (
                EndpointFigures(ONE, active=1, total=4, bytes_up=100, bytes_down=200, dial=dial),
                EndpointFigures(TWO, failed=2, passed_over_seconds=3.0),
            )
            listener = ListenerFigures(
                ListenerName(WEB),
                Verdict.SERVE,
                40000,
                1,
                4,
                retried=2,
                bytes_up=100,
                bytes_down=200,
                endpoints=figures,
            )
            api.data.figures = (listener,)
            api.data.open = [
                connection(1),
                connection(2, state=ConnectionState.DIALING, endpoint=None, age_seconds=9.0),
                connection(3, name=DNS),
            ]
            retried = decision(1, Outcome.RETRIED, (Attempt(TWO, "Connection refused"),))
            api.data.made = [retried, decision(2), decision(3, Outcome.RESET)]
            text = "default/web: node port 30080 is taken"
            api.control.found = frozenset({Problem(WEB.service, ProblemKind.PORT_CONFLICT, text, here=True)})

        found.tell(fill)
        yield found

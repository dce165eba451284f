"""A table of what changes, where there is no terminal."""

import threading

from tests.cli.inspect.asking import decided, decision
from tests.cli.inspect.conftest import proxy
from tests.cli.served import Running
from userproxy.demo.waiting import eventually

__all__ = ["proxy"]


def test_top_prints_one_table_where_there_is_no_terminal(proxy: Running) -> None:
    for kind, name in (("services", "default/web:http"), ("endpoints", "10.1.0.1:8080 default/web:http")):
        head, heading, first, *_ = proxy.run("top", kind, "-d", "0.1").stdout.splitlines()
        assert head.endswith(f"  {kind}, every 0.1 s")
        assert heading.split()[:3] == [kind.upper()[:-1], "ACTIVE", "CONN/S"]
        assert first.startswith(name)


def test_top_counts_clients_whose_connections_are_over(proxy: Running) -> None:
    def decide() -> None:
        eventually(lambda: proxy.api.data.decision_watches, 30, "decisions are watched")
        proxy.tell(decided(decision(4)))

    telling = threading.Thread(target=decide)
    telling.start()
    result = proxy.run("top", "clients", "-d", "0.5", "--iterations", "1")
    telling.join()
    assert result.stdout.splitlines()[2].split()[:2] == ["10.2.0.9", "3"]

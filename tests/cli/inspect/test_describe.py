"""Everything of one Service."""

import pytest

from tests.cli.served import Running


def test_describe(proxy: Running) -> None:
    result = proxy.run("describe", "service", "default/web", "--last", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "  port conflict: default/web: node port 30080 is taken (on this node)" in result.stdout.splitlines()
    assert "  Endpoints, 2 of 2 usable:" in result.stdout.splitlines()
    assert result.stdout.count(" -> default/web:http -> ") == 1
    assert "kube-system" not in result.stdout


@pytest.mark.parametrize("kind", ["service", "services", "svc"])
def test_a_service_may_be_named_with_its_namespace_apart(proxy: Running, kind: str) -> None:
    whole = proxy.run("describe", kind, "default/web").stdout
    assert proxy.run("describe", kind, "web", "-n", "default").stdout == whole
    assert whole.count(" -> default/web:http -> ") == 3, "the last ten decisions, of which there are three"


@pytest.mark.parametrize("last", ["0", "1000001", "many"])
def test_how_many_decisions_are_shown_is_a_number_from_1_on(proxy: Running, last: str) -> None:
    result = proxy.run("describe", "service", "default/web", "--last", last)
    assert (result.exit_code, result.stdout) == (2, "")

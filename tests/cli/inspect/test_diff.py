"""Differences between what is wanted and what the kernel has."""

import pytest
import yaml

from tests.admin.planes import Served
from tests.cli.served import Running
from userproxy.admin.items import Differences
from userproxy.cli.inspect.diff import difference_lines
from userproxy.cli.output.tables import printable


def test_without_differences_there_is_no_line(proxy: Running) -> None:
    result = proxy.run("diff")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_differences_are_a_line_each_and_exit_code_1(proxy: Running) -> None:
    def differ(api: Served) -> None:
        api.differences = Differences(("nat: -A X -j Y",), ("local route to 10.0.0.1",), ("IPv6: no netlink",))

    proxy.tell(differ)
    result = proxy.run("diff")
    assert result.stdout == "- nat: -A X -j Y\n+ local route to 10.0.0.1\n? IPv6: no netlink\n"
    assert result.exit_code == 1
    for form in ("json", "yaml"):
        result = proxy.run("diff", "-o", form)
        assert yaml.safe_load(result.stdout)["left_over"] == ["local route to 10.0.0.1"]
        assert result.exit_code == 1


def test_lines_have_a_sign_and_nothing_that_a_terminal_obeys() -> None:
    found = {"missing": ["a", "b\x1b[2J"], "left_over": [], "unread": ["IPv6: no netlink"]}
    assert difference_lines(found) == ["- a", "- " + printable("b\x1b[2J"), "? IPv6: no netlink"]
    assert "\x1b" not in "".join(difference_lines(found))


@pytest.mark.parametrize("field", ["missing", "left_over", "unread"])
def test_any_kind_of_difference_is_exit_code_1(proxy: Running, field: str) -> None:
    def differ(api: Served) -> None:
        api.differences = Differences(**{"missing": (), "left_over": (), "unread": (), field: ("x",)})

    proxy.tell(differ)
    assert proxy.run("diff").exit_code == 1

"""Whether all is well."""

import json

import yaml
from msgspec.structs import replace

from tests.admin.planes import Served
from tests.cli.served import Running
from userproxy.cli.inspect.status import _ages


def test_status(proxy: Running) -> None:
    result = proxy.run("status")
    assert (result.exit_code, result.stdout.splitlines()[1]) == (0, "All is well.")
    assert json.loads(proxy.run("status", "-o", "json").stdout)["node"] == "node-1"
    assert yaml.safe_load(proxy.run("status", "-o", "yaml").stdout)["healthy"] is True


def test_what_is_wrong_is_said_and_is_exit_code_1(proxy: Running) -> None:
    def break_it(api: Served) -> None:
        api.status = replace(api.status, in_sync=False, healthy=False, problems=3)

    proxy.tell(break_it)
    for form in ((), ("-o", "json"), ("-o", "yaml")):
        assert proxy.run("status", *form).exit_code == 1
    assert "All is well." not in proxy.run("status").stdout


def test_since_when_is_told_as_an_age_which_is_never_negative() -> None:
    long_ago, to_come = "2023-11-14T22:13:20.000000Z", "2999-01-01T00:00:00.000000Z"
    ages = _ages({"families": [{"since": long_ago}, {"since": to_come}, {"since": None}]})
    assert ages.keys() == {long_ago, to_come}
    assert ages[to_come] == 0.0
    assert ages[long_ago] > 1e6

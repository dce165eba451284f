"""Prometheus itself, where it is installed, reads the metrics of a running userproxy and answers all our queries."""

from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from tests.e2e.test_metrics import serve_everything
from tests.examples.monitoring import DIRECTORY, queries
from tests.lab.cluster import Lab
from userproxy.demo.programs import Program
from userproxy.demo.traffic import http
from userproxy.demo.waiting import eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(which("prometheus") is None, reason="prometheus is missing: Debian's package prometheus"),
]

SERVER = ("127.0.0.1", 9090)
CONFIGURATION = f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{DIRECTORY / "alerts.yaml"}]
scrape_configs:
  - job_name: userproxy
    static_configs: [targets: ["127.0.0.1:10249"]]
"""


def asked(lab: Lab, path: str) -> Any:
    return msgspec.json.decode(http(lab.node, SERVER, f"/api/v1/{path}"))["data"]


def test_every_query_has_an_answer(lab: Lab, tmp_path: Path) -> None:
    serve_everything(lab)
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION)
    argv = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    prometheus = lab.enter(Program(lab.node, [*argv, f"--web.listen-address={SERVER[0]}:{SERVER[1]}"]))
    prometheus.wait_port(SERVER[1])

    def scraped_often_enough() -> bool:
        (target,) = asked(lab, "targets")["activeTargets"] or ({"health": "unknown", "lastError": ""},)
        assert not target["lastError"]
        found = asked(lab, "query?query=" + quote("count_over_time(up[1m]) >= 3"))["result"]
        return target["health"] == "up" and bool(found)

    eventually(scraped_often_enough, 30, "three scrapes")
    alerts = [rule for group in asked(lab, "rules")["groups"] for rule in group["rules"]]
    eventually(lambda: asked(lab, "rules")["groups"][0]["evaluationTime"] > 0, 30, "the rules have been evaluated")
    assert [(rule["name"], rule["lastError"]) for rule in alerts if rule.get("lastError")] == []
    empty = []
    for place, query in queries():
        comparable = place in {rule["name"] for rule in alerts} or " > 0" in query
        if not asked(lab, "query?query=" + quote(query))["result"] and not comparable:
            empty.append((place, query))
    assert empty == []

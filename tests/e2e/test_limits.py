"""More clients than descriptors."""

import json
import sys

import pytest

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from userproxy.demo.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)]

CLIENTS = """
import asyncio, json, sys

async def ask(number):
    reader, writer = await asyncio.open_connection("10.96.0.10", 80)
    writer.write(b"%d" % number)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer == b"%d" % number

async def main():
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(ask(n) for n in range(2000)), return_exceptions=True)
    other = [repr(answer) for answer in answers if answer is not True]
    print(json.dumps({"served": 2000 - len(other), "other": other[:3]}))

asyncio.run(main())
"""

ECHO = """
import asyncio

async def echo(reader, writer):
    data = await reader.read()
    await asyncio.sleep(0.02)
    writer.write(data)
    writer.close()

async def main():
    server = await asyncio.start_server(echo, "0.0.0.0", 8080, backlog=4096)
    await server.serve_forever()

asyncio.run(main())
"""


def test_two_thousand_clients_at_once_under_a_limit_of_1024(lab: Lab) -> None:
    for pod in lab.pods:
        pod.serve_python(ECHO)
    lab.manifests.service("web", cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=[Port(80)])
    lab.node.sysctl("net.ipv4.tcp_max_syn_backlog", 4096)
    proxy = lab.node.start_userproxy(most_files=1024)
    lab.node.wait_for_rules("default/web")
    at_rest = proxy.descriptors()
    done = lab.client.run([sys.executable, "-c", CLIENTS], timeout=90)
    assert json.loads(done.stdout) == {"served": 2000, "other": []}
    assert proxy.running
    shortages = [record for record in proxy.records if "Out of descriptors" in record["event"]]
    assert 1 <= len(shortages) <= 5, "said when a shortage begins, not for each client"
    assert shortages[0]["limit"] == 1024
    eventually(lambda: proxy.descriptors() <= at_rest + 2, 30, "the descriptors of all connections are closed")
    assert proxy.terminate() == 0

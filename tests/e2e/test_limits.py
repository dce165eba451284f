"""More clients than descriptors."""

import json
import sys
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from tests.lab.probes import get
from userproxy.demo.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)]

HEALTHZ = ("127.0.0.1", 10256)

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
    at_rest = proxy.descriptors_at_rest()
    done = lab.client.run([sys.executable, "-c", CLIENTS], timeout=90)
    assert json.loads(done.stdout) == {"served": 2000, "other": []}
    assert proxy.running
    shortages = [record for record in proxy.records if "Out of descriptors" in record["event"]]
    said = Counter(record.get("process", 0) for record in shortages)
    assert said
    assert max(said.values()) <= 5, "each process says it when a shortage begins, not for each client"
    assert shortages[0]["limit"] == 1024
    eventually(lambda: proxy.descriptors() <= at_rest + 2, 30, "the descriptors of all connections are closed")
    assert proxy.terminate() == 0


HOARD = """
import resource, socket, time

resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
clients = []
for number in range(900):
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("10.96.0.10", 80))
    clients.append(client)
time.sleep(60)
"""

ECHO_AND_STAY = """
import asyncio

async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()

async def main():
    server = await asyncio.start_server(echo, "0.0.0.0", 8080, backlog=4096)
    await server.serve_forever()

asyncio.run(main())
"""


def test_nine_hundred_idle_clients_of_one_service_are_not_noticed_by_others(lab: Lab) -> None:
    for pod in lab.pods:
        pod.serve_python(ECHO_AND_STAY)
    for name, ip in (("web", "10.96.0.10"), ("other", "10.96.0.11"), ("third", "10.96.0.12")):
        lab.manifests.service(name, cluster_ip=ip)
        lab.manifests.slice(name, lab.pods, ports=[Port(80)])
    lab.node.sysctl("net.ipv4.tcp_max_syn_backlog", 4096)
    proxy = lab.node.start_userproxy(most_files=1024)
    for name in ("web", "other", "third"):
        lab.node.wait_for_rules(f"default/{name}")
    hoard = lab.client.popen([sys.executable, "-c", HOARD])
    try:
        eventually(lambda: proxy.descriptors() > 700, 30, "the hoarder has what one Service may have")
        with ExitStack() as stack:
            for number in range(60):
                other = stack.enter_context(lab.client.connect(("10.96.0.11" if number % 2 else "10.96.0.12", 80), 2))
                other.sendall(b"x")
                assert other.recv(1) == b"x"
        with lab.pods[0].connect(("10.96.0.10", 80), 20) as same:
            same.sendall(b"x")
            assert same.recv(1) == b"x"
    finally:
        hoard.kill()
        hoard.wait()
    assert proxy.running
    eventually(lambda: proxy.descriptors() < 200, 30, "what the hoarder had is closed")
    assert proxy.terminate() == 0


def test_more_services_than_descriptors_leave_room_for_the_connections_of_those_that_are_served(lab: Lab) -> None:
    for pod in lab.pods:
        pod.serve_python(ECHO_AND_STAY)
    for number in range(500):
        lab.manifests.service(f"s{number:03}", cluster_ip=f"10.96.{1 + number // 250}.{1 + number % 250}")
        lab.manifests.slice(f"s{number:03}", lab.pods[:1], ports=[Port(80)])
    proxy = lab.node.start_userproxy(most_files=512)
    lab.node.wait_for_rules("default/s000")
    eventually(lambda: "warnings" in get(lab.node, HEALTHZ, "/healthz").body, 30, "/healthz says what is not served")
    (warning,) = get(lab.node, HEALTHZ, "/healthz").body["warnings"]
    not_served = int(warning.split()[0])
    assert "the limit of open files is too low" in warning
    assert 200 < not_served < 350
    rules = "".join(rule for rule in lab.node.wait_for_rules("default/s000") if "REDIRECT" in rule)
    served = [n for n in range(500) if f"/s{n:03}" in rules]
    with ExitStack() as stack:
        for number in range(40):
            ip = f"10.96.{1 + served[number] // 250}.{1 + served[number] % 250}"
            client = stack.enter_context(lab.client.connect((ip, 80), 2))
            client.sendall(b"x")
            assert client.recv(1) == b"x"
    refusals = [record for record in proxy.records if record["level"] == "warning" and "open files" in record["event"]]
    assert 2 <= len(refusals) <= 12, "a few are named, and how many more there are"
    assert proxy.terminate() == 0

"""``python -m examples.benchmarks.portal_syncs``: what the rules of so many service ports cost. Root only."""

import asyncio
import logging
import resource
import statistics
import subprocess
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path

import click
import msgspec
import structlog
from msgspec import Struct, structs

from examples.benchmarks.toolchain import find_program
from userproxy.demo.namespaces import enter_new_namespaces
from userproxy.model import IPFamily, Portal, PortalBinding, PortalKind, Protocol, ServicePortName, Target, Verdict
from userproxy.portals.interface import DriverOptions
from userproxy.portals.iptables.driver import IptablesDriver

_HINT = "KUBE-IPTABLES-HINT"
"""The chain by which kubelet shows which variant it uses."""


class Cost(Struct, frozen=True):
    """Of one step: CPU of this process and of the programs that it ran, and time by the clock; medians."""

    variant: str
    step: str
    cpu_ms: float
    wall_ms: float


@click.command()
@click.option("--ports", "count", default=5_000, show_default=True, help="Service ports that have rules.")
@click.option("--rounds", default=20, show_default=True, help="How often the small changes are made.")
@click.option("--variants", default="legacy,nft", show_default=True, help="Variants of iptables.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(count: int, rounds: int, variants: str, json_file: Path | None) -> None:
    """CPU and time of the iptables driver, in a network namespace of its own: no rule of the machine is touched."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    costs: list[Cost] = []
    for variant in variants.split(","):
        if find_program(f"iptables-{variant}") is None:
            click.echo(f"iptables-{variant} is not installed, so it is left out.", err=True)
            continue
        try:
            enter_new_namespaces()
        except OSError as error:
            raise click.ClickException(f"no network namespace of our own can be had: {error}") from error
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run([f"iptables-{variant}", "-t", "mangle", "-N", _HINT], check=True)
        click.echo(f"iptables-{variant}", err=True)
        costs += asyncio.run(measure(variant, count, rounds))
    click.echo(to_text(costs, count, rounds), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=2) + b"\n")


async def measure(variant: str, count: int, rounds: int) -> list[Cost]:
    """Sync `count` service ports, then make small changes one after the other. The rules vanish with the namespace."""
    bindings = [_binding(number) for number in range(count)]
    added = _binding(count)
    refused = Target(Verdict.REJECT)
    without = structs.replace(bindings[count // 2], internal=refused, external=refused, on_node=refused)
    driver = IptablesDriver(DriverOptions(IPFamily.IPV4, "127.0.0.1"))
    found: dict[str, list[tuple[float, float]]] = {}

    async def step(
        name: str, changed: Sequence[PortalBinding], gone: Sequence[ServicePortName] = (), *, verify: bool = False
    ) -> None:
        found.setdefault(name, []).append(await _timed(driver.sync(changed, gone, verify=verify)))

    try:
        await step("first sync", bindings, verify=True)
        for _ in range(max(rounds // 5, 1)):
            await step("nothing new, verified", [], verify=True)
        for _ in range(rounds):
            await step("one added", [added])
            await step("one removed", [], [added.name])
            await step("one loses its endpoints", [without])
            await step("one has endpoints again", [bindings[count // 2]])
    finally:
        await driver.close()
    return [
        Cost(variant, name, *(statistics.median(values) * 1e3 for values in zip(*taken, strict=True)))
        for name, taken in found.items()
    ]


def to_text(costs: Sequence[Cost], count: int, rounds: int) -> str:
    """One line a step."""
    lines = [f"{count} service ports with a cluster IP each; medians of {rounds} small changes"]
    lines += [f"{'iptables':<9}{'step':<26}{'CPU, ms':>10}{'time, ms':>10}"]
    lines += [f"{cost.variant:<9}{cost.step:<26}{cost.cpu_ms:>10.1f}{cost.wall_ms:>10.1f}" for cost in costs]
    return "\n".join(lines) + "\n"


async def _timed(work: Awaitable[object]) -> tuple[float, float]:
    """Seconds of CPU, programs that were waited for included, and of the clock."""
    cpu, wall = _cpu_seconds(), time.monotonic()
    await work
    return _cpu_seconds() - cpu, time.monotonic() - wall


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def _binding(number: int) -> PortalBinding:
    target = Target(Verdict.SERVE, 20_000 + number)
    portal = Portal(PortalKind.CLUSTER_IP, f"10.96.{number // 256}.{number % 256}", 80)
    name = ServicePortName("default", f"service-{number}", "http", Protocol.TCP)
    return PortalBinding(name, (portal,), target, target, target)


if __name__ == "__main__":
    main()

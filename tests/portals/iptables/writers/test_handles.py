"""Small changes of iptables-nft's tables, in a network of their own."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

import pytest
from msgspec import structs

from tests.portals.conftest import Network, tools_of, use, with_addresses
from tests.portals.examples import EVERYWHERE, REJECT, cluster_ip_binding, serve
from userproxy.model import IPFamily, PortalBinding
from userproxy.portals.interface import DriverOptions
from userproxy.portals.iptables.changes import Change, Present, restore_text
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.iptables.tables import Tables
from userproxy.portals.iptables.variant import Tools, Variant
from userproxy.portals.iptables.writers.restore import RestoreWriter


class Scene:
    """A driver that works in a network on a loop of the network's own thread, and what it hands to iptables-restore."""

    def __init__(self, network: Network, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network = network
        self.tools = tools
        self.restored: list[str] = []
        self._loop = network.run(asyncio.new_event_loop)
        self._driver = IptablesDriver(DriverOptions(tools.family, EVERYWHERE[tools.family]))
        apply = RestoreWriter.apply

        def noted(writer: RestoreWriter, change: Change) -> None:
            self.restored.append(restore_text(change))
            apply(writer, change)

        monkeypatch.setattr(RestoreWriter, "apply", noted)

    def sync(self, *bindings: PortalBinding, gone: Sequence[PortalBinding] = (), verify: bool = False) -> bool:
        names = [binding.name for binding in gone]
        done = self.network.run(
            lambda: self._loop.run_until_complete(self._driver.sync(bindings, names, verify=verify))
        )
        return done.differed

    def lines(self) -> str:
        text = self.network.run(lambda: Tables(self.tools).read())
        return "\n".join(
            f"{table} {chain} {line}" for table in text for chain in text[table] for line in text[table][chain]
        )

    def close(self) -> None:
        self.network.run(lambda: self._loop.run_until_complete(self._driver.close()))
        self.network.run(self._loop.close)


@pytest.fixture(params=list(IPFamily))
def scene(request: pytest.FixtureRequest, network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    tools = tools_of(request.param, Variant.NFT)
    use(network, tools)
    made = Scene(with_addresses(network), tools, monkeypatch)
    yield made
    made.close()


def test_rules_go_without_a_program_that_reads_their_chains(scene: Scene) -> None:
    bindings = [cluster_ip_binding(number, family=scene.tools.family) for number in range(6)]
    late = cluster_ip_binding(6, family=scene.tools.family)
    scene.sync(*bindings[:5], verify=True)
    scene.restored.clear()
    scene.sync(gone=[bindings[1]])
    assert scene.restored == []
    scene.sync(bindings[5])
    scene.sync(late)
    scene.sync(gone=[bindings[5], bindings[3]])
    scene.sync(structs.replace(late, internal=REJECT, external=REJECT, on_node=REJECT))
    scene.sync(structs.replace(bindings[0], internal=serve(7), external=serve(7), on_node=serve(7)))
    assert [text for text in scene.restored if "-D " in text] == []
    there = scene.lines()
    for number, is_there in enumerate([True, False, True, False, True, False, True]):
        assert (f"bulk/service-{number}" in there) is is_there
    assert not scene.sync(verify=True), "a verification finds all as it should be"


def test_rules_go_although_others_have_changed_what_stands_around_them(scene: Scene) -> None:
    bindings = [cluster_ip_binding(number, family=scene.tools.family) for number in range(4)]
    scene.sync(*bindings, verify=True)
    foreign = "*nat\n-I KUBE-PORTALS-HOST -p tcp -m tcp --dport 9 -j ACCEPT\nCOMMIT\n"
    scene.network.shell(scene.tools.restore, "--noflush", text=foreign)
    scene.sync(gone=[bindings[1]])
    there = scene.lines()
    assert [f"service-{number}" in there for number in range(4)] == [True, False, True, True]


def test_rules_go_although_the_table_was_made_anew_by_others(scene: Scene) -> None:
    """The kernel begins to count its handles from one again."""
    bindings = [cluster_ip_binding(number, family=scene.tools.family) for number in range(4)]
    scene.sync(*bindings, verify=True)
    save = scene.network.shell(scene.tools.save, "-t", "nat")
    family = "ip" if scene.tools.family is IPFamily.IPV4 else "ip6"
    scene.network.shell("nft", "delete", "table", family, "nat")
    scene.network.shell(scene.tools.restore, text=save)
    scene.sync(gone=[bindings[2]])
    there = scene.lines()
    assert [f"service-{number}" in there for number in range(4)] == [True, True, False, True]
    assert not scene.sync(verify=True)


def test_what_cannot_be_deleted_any_more_is_put_right(scene: Scene) -> None:
    bindings = [cluster_ip_binding(number, family=scene.tools.family) for number in range(4)]
    scene.sync(*bindings, verify=True)
    scene.network.run(partial(Tables(scene.tools).remove))
    scene.sync(gone=[bindings[2]])
    there = scene.lines()
    assert [f"service-{number}" in there for number in range(4)] == [True, True, False, True]


def test_a_verification_reads_nothing_where_nobody_else_has_written(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings = [cluster_ip_binding(number, family=scene.tools.family) for number in range(3)]
    read, reads = Tables.read, []

    def noted(tables: Tables) -> Present:
        reads.append(tables)
        return read(tables)

    monkeypatch.setattr(Tables, "read", noted)
    scene.sync(*bindings[:2], verify=True)
    scene.sync(verify=True)
    assert reads, "what a restore has written"
    reads.clear()
    scene.sync(bindings[2])
    scene.sync(gone=[bindings[0]])
    assert not scene.sync(verify=True)
    assert not scene.sync(bindings[0], verify=True)
    assert reads == []
    scene.network.shell(scene.tools.restore, "--noflush", text="*nat\n-F KUBE-PORTALS-HOST\nCOMMIT\n")
    assert scene.sync(verify=True), "what others did is found"
    assert not scene.sync(verify=True)


def test_what_others_did_is_found_although_changes_were_written_since(scene: Scene) -> None:
    bindings = [cluster_ip_binding(number, family=scene.tools.family) for number in range(4)]
    scene.sync(*bindings[:3], verify=True)
    jumps = [line for line in scene.lines().splitlines() if line.startswith("nat OUTPUT") and "PORTALS" in line]
    delete = "".join(f"-D {line.removeprefix('nat ')}\n" for line in jumps)
    scene.network.shell(scene.tools.restore, "--noflush", text=f"*nat\n{delete}COMMIT\n")
    scene.restored.clear()
    scene.sync(gone=[bindings[1]])
    scene.sync(bindings[3])
    scene.sync(gone=[bindings[3]])
    assert [text for text in scene.restored if "-D " in text] == [], "handles are right all the same"
    assert scene.sync(verify=True), "a verification finds the jump gone"
    assert all(line in scene.lines() for line in jumps)

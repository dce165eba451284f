"""Transactions and what becomes of them."""

import errno
import subprocess
import sys
from functools import partial

import pytest

from tests.portals.conftest import Network
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily, LocalTraffic
from userproxy.portals.nftables.changes import creation, transaction
from userproxy.portals.nftables.kernel import Kernel, NoNftablesError, OvertakenError, _refused, _unreachable, following
from userproxy.portals.nftables.layout import layout
from userproxy.portals.nftables.ledger import Edits
from userproxy.portals.nftables.messages import (
    NEW_ELEMENTS,
    NEW_RULE,
    Message,
    create_table,
    impossible,
    remove_table,
)

LAYOUT = layout(IPFamily.IPV4, "0.0.0.0", "192.0.2.10", LocalTraffic())
KERNEL = Kernel(IPFamily.IPV4)
A_RULE = Message(NEW_RULE, 0, b"", "a rule of chain nat-output")
SOME_ELEMENTS = Message(NEW_ELEMENTS, 0, b"", "elements of portals")


def generation_of(network: Network) -> int:
    return network.run(KERNEL.generation)


@pytest.mark.slow
def test_a_transaction_makes_the_next_generation(network: Network) -> None:
    before = generation_of(network)
    assert network.run(partial(KERNEL.commit, transaction(LAYOUT, creation(LAYOUT), Edits()), before)) == 1
    assert generation_of(network) == following(before)
    assert network.run(KERNEL.read).exists


@pytest.mark.slow
def test_a_transaction_upon_another_generation_does_nothing(network: Network) -> None:
    before = generation_of(network)
    network.shell("nft", "add", "table", "ip", "theirs")
    with pytest.raises(OvertakenError, match="changed while they were written"):
        network.run(partial(KERNEL.commit, [create_table(IPFamily.IPV4)], before))
    assert not network.run(KERNEL.read).exists
    assert network.run(partial(KERNEL.commit, [create_table(IPFamily.IPV4)])) == 1


@pytest.mark.slow
def test_one_step_that_cannot_be_done_takes_all_others_back(network: Network) -> None:
    with pytest.raises(OvertakenError, match=r"set that never was.*No such file"):
        network.run(partial(KERNEL.commit, [create_table(IPFamily.IPV4), impossible(IPFamily.IPV4)]))
    assert not network.run(KERNEL.read).exists


@pytest.mark.slow
def test_what_the_kernel_would_refuse_is_found_out_without_a_trace(network: Network) -> None:
    steps = transaction(LAYOUT, creation(LAYOUT), Edits())
    before = generation_of(network)
    assert network.run(partial(KERNEL.refusal, steps)) is None
    refusal = network.run(partial(KERNEL.refusal, [remove_table(IPFamily.IPV4), *steps]))
    assert refusal is not None
    assert "No such file" in refusal
    assert generation_of(network) == before


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOENT])
def test_a_kernel_that_lacks_a_module_is_told_which(code: int) -> None:
    said = str(_refused(code, A_RULE, guarded=True))
    assert said.startswith("this kernel refuses our table of nftables (a rule of chain nat-output): ")
    assert "nft_fib_ipv4" in said


@pytest.mark.parametrize(
    ("code", "step", "guarded", "kind", "said"),
    [
        (errno.ENOENT, A_RULE, False, OvertakenError, "changed while they were written"),
        (errno.ENOENT, SOME_ELEMENTS, True, OvertakenError, "(elements of portals)"),
        (errno.ERESTART, None, True, OvertakenError, "changed while they were written"),
        (errno.EINVAL, SOME_ELEMENTS, True, KernelToolError, "refuses a change of nftables (elements of portals)"),
        (errno.ENOMEM, SOME_ELEMENTS, True, KernelToolError, "Cannot allocate memory"),
        (errno.EPERM, None, True, KernelToolError, "only with CAP_NET_ADMIN"),
    ],
)
def test_why_a_transaction_is_refused(
    code: int,
    step: Message | None,
    guarded: bool,
    kind: type[KernelToolError],
    said: str,
) -> None:
    error = _refused(code, step, guarded=guarded)
    assert type(error) is kind
    assert said in str(error)


@pytest.mark.parametrize("code", [errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_without_nftables(code: int) -> None:
    error = _unreachable(OSError(code, "Not supported"))
    assert type(error) is NoNftablesError
    assert str(error) == "this kernel has no nftables (module nf_tables): Not supported"


def test_generations_begin_anew_without_0() -> None:
    assert [following(0xFFFFFFFE), following(0xFFFFFFFF), following(0xFFFFFFFE, 3), following(7, 0)] == [
        0xFFFFFFFF,
        1,
        2,
        7,
    ]


IN_A_USER_NAMESPACE = """
import asyncio
from tests.portals.examples import cluster_ip_binding
from userproxy.model import IPFamily
from userproxy.portals.interface import DriverOptions
from userproxy.portals.nftables.driver import NftablesDriver

async def main():
    driver = NftablesDriver(DriverOptions(IPFamily.IPV4, "192.0.2.10"))
    await driver.sync([cluster_ip_binding(number) for number in range(10000)])
    again = await driver.sync([cluster_ip_binding(number) for number in range(10000)])
    print(again.differed, len(driver._kernel.elements("portals")))
    await driver.close()

asyncio.run(main())
"""


@pytest.mark.slow
def test_in_a_user_namespace_ten_thousand_services_are_several_transactions() -> None:
    """Its CAP_NET_ADMIN is not that which large buffers take."""
    if subprocess.run(["unshare", "-Urn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces")
    done = subprocess.run(
        ["unshare", "-Urn", sys.executable, "-c", IN_A_USER_NAMESPACE], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False 10000"

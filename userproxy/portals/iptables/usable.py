"""Whether iptables' programs and the kernel do what our rules need, tried with rules of each kind. Blocking.

They are written in a network namespace of their own, which ends at once with all that was made in it. Without the
capability for that (CAP_SYS_ADMIN) they are only checked where we are (``--test``). That makes no rule and no chain;
but if the variant is legacy and has no nat table the kernel makes an empty one, and a kernel that refuses NAT to
nf_tables is not found out.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.iptables.chains import PROBE
from userproxy.portals.iptables.variant import Tools, Variant, detect
from userproxy.portals.programs import complaint, run_program

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET, linux/sched.h
_LOCK_SECONDS: Final = "5"
_SOME_ADDRESS: Final = {
    IPFamily.IPV4: ("192.0.2.1/32", "192.0.2.1"),
    IPFamily.IPV6: ("2001:db8::1/128", "[2001:db8::1]"),
}
"""For documentation (RFC 5737, RFC 3849)."""
_MODULES: Final = {
    Variant.LEGACY: "iptable_nat, in IPv6 ip6table_nat, xt_nat, xt_REDIRECT, xt_tcpudp and xt_comment",
    Variant.NFT: "nf_tables, nft_compat, nft_chain_nat, xt_nat, xt_REDIRECT and xt_comment",
}
_WARNING: Final = "missing kernel module"


def refusal(family: IPFamily) -> str | None:
    """Why portal rules cannot be written, in one clause that names the package or the modules; None if they can."""
    try:
        tools = detect(family)
        with ThreadPoolExecutor(max_workers=1) as apart:
            return apart.submit(_refusal, tools).result()
    except KernelToolError as error:
        return str(error)


def _refusal(tools: Tools) -> str | None:
    """For a thread that ends after this."""
    mode = [] if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) == 0 else ["--test"]
    done = run_program([tools.restore, "--noflush", "--wait", _LOCK_SECONDS, *mode], _some_rules(tools.family))
    if done.returncode == 0 and _WARNING not in done.stderr:
        return None
    return f"{complaint(done)} (it takes the kernel's {_MODULES[tools.variant]})"


def _some_rules(family: IPFamily) -> str:
    network, address = _SOME_ADDRESS[family]
    matched = f"-A {PROBE} -d {network} -p tcp -m comment --comment default/probe -m tcp --dport 1"
    return "\n".join(
        (
            "*nat",
            f":{PROBE} - [0:0]",
            f"{matched} -j REDIRECT --to-ports 1",
            f"{matched} -j DNAT --to-destination {address}:1",
            f"-A PREROUTING -j {PROBE}",
            "COMMIT",
            "",
        )
    )

"""A kernel that lacks a part of nf_tables, for programs that are started with this folder on PYTHONPATH.

The variable NFTABLES_LACKS says which: ``socket`` is the module nft_socket, ``bridge`` tables of bridges. Requests with
these are answered as such a kernel answers them, and have no effect.
"""

import errno
import os
from collections.abc import Sequence
from typing import Any

from userproxy.portals.nftables.kernel import Kernel
from userproxy.portals.nftables.messages import Message

_LACKING = os.environ.get("NFTABLES_LACKS", "")
_BRIDGE = b"\x07"  # NFPROTO_BRIDGE, at the beginning of struct nfgenmsg
_send = Kernel.send


def _refused(message: Message) -> int:
    if _LACKING == "socket" and b"socket\0" in message.body:
        return errno.ENOENT
    return errno.EOPNOTSUPP if _LACKING == "bridge" and message.body.startswith(_BRIDGE) else 0


def _send_what_is_there(self: Kernel, messages: Sequence[Message], *more: Any, **options: Any) -> Any:
    codes = [(number, code) for number, message in enumerate(messages, 1) if (code := _refused(message))]
    return codes or _send(self, messages, *more, **options)


Kernel.send = _send_what_is_there  # type: ignore[method-assign]

"""Telling the two address families apart."""

from collections.abc import Iterable

from userproxy.model import IPFamily


def of_family(texts: Iterable[str], family: IPFamily) -> list[str]:
    """Those of some addresses or networks that belong to `family`, in their order.

    They must be valid: only an IPv6 address has a colon, and that is all that is looked at.
    """
    wanted = family is IPFamily.IPV6
    return [text for text in texts if (":" in text) is wanted]

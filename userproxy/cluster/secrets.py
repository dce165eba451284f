"""Text for people out of text that may hold secrets. Pure."""

import re
from typing import Final

_PASSWORD: Final = re.compile(r"(^|//).*@")
_LIKE_A_KEY: Final = re.compile(r"[A-Za-z0-9+/=_.~-]{24,}")


def without_password(url: str) -> str:
    """A URL, or what somebody took for one, without user name and password."""
    return _PASSWORD.sub(r"\1", url)


def without_keys(text: str) -> str:
    """What a program has said, in one line, with everything in it that might be a token or a key replaced by ``…``."""
    return _LIKE_A_KEY.sub(lambda run: run[0] if _is_plain(run[0]) else "…", " ".join(text.split()))


def _is_plain(run: str) -> bool:
    """Whether a long run of letters is a path or words joined by dashes: no part of it mixes letters and digits."""
    parts = re.split(r"[/._=~+-]", run)
    return not any(len(part) >= 24 or (re.search(r"[0-9]", part) and re.search(r"[A-Za-z]", part)) for part in parts)

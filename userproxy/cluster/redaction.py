"""Text for people out of text that may hold secrets. Pure."""

import re
from typing import Final

_PASSWORD: Final = re.compile(r"^([A-Za-z0-9+.-]+://)?.*@", re.DOTALL)
_LIKE_A_PATH: Final = re.compile(r"[\w./@-]*/[\w./@-]+|[\w-]+\.(crt|cer|cert|pem|key|token|json|txt)", re.ASCII)
_LONGEST_PATH: Final = 200
_MIXED: Final = re.compile(r"[0-9][A-Za-z]+[0-9]|[A-Za-z][0-9]+[A-Za-z]")
_LIKE_A_KEY: Final = re.compile(r"[A-Za-z0-9+/=_.~-]{24,}")


def without_password(url: str) -> str:
    """A URL, or what somebody took for one, without user name and password."""
    return _PASSWORD.sub(r"\1", url)


def shown_path(name: str) -> str:
    """The name of a file, if it looks like one: somebody may have put a key where its file should be named."""
    is_path = len(name) <= _LONGEST_PATH and _LIKE_A_PATH.fullmatch(name) and _is_plain(name)
    return name if is_path else "the file"


def without_keys(text: str) -> str:
    """What a program has said, in one line, with everything in it that might be a token or a key replaced by ``…``."""
    return _LIKE_A_KEY.sub(lambda run: run[0] if _is_plain(run[0]) else "…", " ".join(text.split()))


def _is_plain(run: str) -> bool:
    """Whether a run of letters is a path or words joined by dashes, none of which is long and mixed as a key is."""
    parts = re.split(r"[/._=~+-]", run)
    return not any(len(part) >= 24 or (len(part) >= 12 and _MIXED.search(part)) for part in parts)

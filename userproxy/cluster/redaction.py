"""Texts for logs and errors, without the passwords, tokens and keys that may be in them. Pure."""

import re
from typing import Final

_PASSWORD: Final = re.compile(r"^([A-Za-z0-9+.-]+://)?.*@", re.DOTALL)
_LIKE_A_PATH: Final = re.compile(r"[\w./@-]*/[\w./@-]+|[\w-]+\.(crt|cer|cert|pem|key|token|json|txt)", re.ASCII)
_LONGEST_PATH: Final = 200
_MIXED: Final = re.compile(r"[0-9][A-Za-z]+[0-9]|[A-Za-z][0-9]+[A-Za-z]")
_LIKE_A_KEY: Final = re.compile(r"[A-Za-z0-9+/=_.~-]{24,}")


def without_password(url: str) -> str:
    """A URL, or a text in the place of one, without user name and password."""
    return _PASSWORD.sub(r"\1", url)


def shown_path(name: str) -> str:
    """`name` if it looks like the name of a file, else "the file": it may be a key in the place of its file's name."""
    is_path = len(name) <= _LONGEST_PATH and _LIKE_A_PATH.fullmatch(name) and _is_plain(name)
    return name if is_path else "the file"


def without_keys(text: str) -> str:
    """A program's output as one line, with all that may be a token or a key replaced by ``…``."""
    return _LIKE_A_KEY.sub(lambda run: run[0] if _is_plain(run[0]) else "…", " ".join(text.split()))


def _is_plain(run: str) -> bool:
    """Whether a text is a path or words joined by dashes, none of them as long, or as mixed with digits, as a key."""
    parts = re.split(r"[/._=~+-]", run)
    return not any(len(part) >= 24 or (len(part) >= 12 and _MIXED.search(part)) for part in parts)

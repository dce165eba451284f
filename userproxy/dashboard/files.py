"""The page's own files: what is in the package's folder ``page``, and nothing else."""

from importlib.resources import files
from typing import Final, NamedTuple

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class PageFile(NamedTuple):
    """A file as it is served."""

    content: bytes
    content_type: str


def page_files() -> dict[str, PageFile]:
    """The files by the path at which they are served; the page itself is at ``/``."""
    folder = files("userproxy.dashboard") / "page"
    found = {}
    for each in folder.iterdir():
        kind = _TYPES.get(each.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if each.name == "index.html" else f"/{each.name}"
            found[path] = PageFile(each.read_bytes(), kind)
    return found

"""The page's files."""

import re

import pytest

from userproxy.dashboard.files import page_files

FILES = page_files()
TEXTS = {path: file.content.decode() for path, file in FILES.items()}


def test_the_page_and_what_it_names_are_there() -> None:
    assert FILES["/"].content_type.startswith("text/html")
    named = set(re.findall(r'(?:href|src)="(/[^"]*)"', TEXTS["/"]))
    imported = {f"/{name}" for text in TEXTS.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert {"/main.js", "/layout.css"} <= named
    assert named | imported <= FILES.keys()
    assert FILES.keys() - {"/"} <= named | imported


def test_types_are_those_that_browsers_take_for_modules_and_styles() -> None:
    types = {
        path.rpartition(".")[2]: file.content_type.partition(";")[0] for path, file in FILES.items() if path != "/"
    }
    assert types == {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@pytest.mark.parametrize("path", sorted(FILES))
def test_nothing_comes_from_elsewhere_or_is_inline(path: str) -> None:
    text = TEXTS[path].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    assert not re.search(r"<script>|<style|\sstyle=|\son[a-z]+=\"", text)

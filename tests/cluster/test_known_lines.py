"""Lines of a list that comes again."""

from userproxy.cluster.known_lines import KnownLines


async def test_a_line_is_known_for_as_long_as_every_list_has_it() -> None:
    known = KnownLines[str]()
    await _list(known, {b"a": "A", b"b": "B"})
    assert await _list(known, {b"a": "A", b"c": "C"}) == ["A", None]
    assert await _list(known, {b"a": "A", b"b": "B", b"c": "C"}) == ["A", None, "C"]


async def test_a_line_that_comes_twice_is_known_the_second_time() -> None:
    known = KnownLines[str]()
    known.learn(b"a", "A")
    assert known.recall(b"a") == known.recall(b"a") == "A"


async def test_of_a_list_that_broke_off_nothing_is_kept() -> None:
    known = KnownLines[str]()
    await _list(known, {b"a": "A", b"b": "B"})
    await known.begin()
    assert known.recall(b"a") == "A"
    known.learn(b"c", "C")
    assert await _list(known, {b"a": "A", b"b": "B", b"c": "C"}) == [None, "B", None]
    assert await _list(known, {b"a": "A", b"b": "B", b"c": "C"}) == ["A", "B", "C"]


async def _list(known: KnownLines[str], lines: dict[bytes, str]) -> list[str | None]:
    """What was known of the lines of a list, all of which is learned."""
    await known.begin()
    found = []
    for line, value in lines.items():
        found.append(known.recall(line))
        if found[-1] is None:
            known.learn(line, value)
    await known.end()
    return found

"""What several data processes tell of comes to one reader, who is cut off if it is too slow."""

from userproxy.processes.control.merged_watch import MergedWatch


def watch(room: int) -> MergedWatch[str]:
    return MergedWatch(room, len)


async def test_events_of_several_processes_are_read_together() -> None:
    reader = watch(100)
    reader.add(["a"])
    reader.add(["b", "c"])
    batch = await reader.read()
    assert (batch.items, batch.lost) == (("a", "b", "c"), 0)


async def test_beyond_its_room_a_reader_loses_events_and_is_told_how_many() -> None:
    reader = watch(3)
    reader.add(["aa", "bb", "cc", "dd"])
    reader.add(["ee"], lost=7)
    batch = await reader.read()
    assert (batch.items, batch.lost) == (("aa", "bb"), 2 + 7 + 1)


async def test_the_end_of_connections_with_their_process_needs_no_room() -> None:
    reader = watch(1)
    reader.add(["a", "b", "c"], beyond_room=True)
    batch = await reader.read()
    assert (batch.items, batch.lost) == (("a", "b", "c"), 0)

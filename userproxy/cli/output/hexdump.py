"""A capture for a person: a line for everything that passes, and its bytes below it as hexdump -C has them."""

from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Final

from userproxy.cli.output.decisions import service_port
from userproxy.cli.output.tables import Item, printable
from userproxy.cli.output.units import amount, latency, time_of_day

_WIDTH: Final = 16


class Hexdump:
    """Makes text of the lines of ``/v1/capture``, one after the other."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, str], tuple[str, str]] = {}

    def add(self, line: Item) -> Iterator[str]:
        """The lines of text for one object."""
        match line["type"]:
            case "OPENED":
                yield self._opened(line)
            case "PASSED":
                yield self._passed(line)
                yield from dump(b64decode(line["data"]))
            case "ENDED":
                self._forget(line["connection"])
                figures = f"{amount(line['bytes_up'])} up, {amount(line['bytes_down'])} down"
                reason = f" ({printable(line['reason'])})" if line["reason"] else ""
                yield f"{_head(line)} {line['verdict']}{reason}: {latency(line['duration_seconds'])}, {figures}"

    def _opened(self, line: Item) -> str:
        number = line["connection"]
        self._ends[number, "client"] = line["client"], line["portal"]
        route = [line["client"], line["portal"], service_port(line)]
        if line["endpoint"] is not None:
            self._ends[number, "backend"] = line["node"], line["endpoint"]
            route += [line["node"], line["endpoint"]]
        remarks = "" if line["whole"] else "; open already"
        remarks += "".join(f"; tried {each['endpoint']}: {printable(each['reason'])}" for each in line["tried"])
        return f"{_head(line)} {' -> '.join(route)} {line['protocol']}{remarks}"

    def _passed(self, line: Item) -> str:
        ends = self._ends.get((line["connection"], line["leg"]), ("?", "?"))
        source, destination = ends if line["direction"] == "up" else ends[::-1]
        what = line["kind"].upper() if line["kind"] != "data" else f"{line['size']} bytes"
        return f"{_head(line)} {line['leg']} {source} > {destination} {what}"

    def _forget(self, number: int) -> None:
        for leg in ("client", "backend"):
            self._ends.pop((number, leg), None)


def dump(data: bytes) -> Iterator[str]:
    """Sixteen bytes a line: where they are, in hexadecimal, and as text where they are printable ASCII."""
    for start in range(0, len(data), _WIDTH):
        part = data[start : start + _WIDTH]
        text = "".join(chr(each) if 32 <= each < 127 else "." for each in part)
        yield f"  {start:08x}  {_hex(part[:8]):<23}  {_hex(part[8:]):<23}  |{text}|"


def _hex(part: Sequence[int]) -> str:
    return " ".join(f"{each:02x}" for each in part)


def _head(line: Item) -> str:
    return f"{time_of_day(line['time'])} #{line['connection']}"

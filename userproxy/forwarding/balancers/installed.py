"""The balancers that installed packages have, by entry points of the group ``userproxy.balancers``.

They are imported when a Service first asks for one, in a thread: nobody waits for that.
"""

import time
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from threading import Thread
from typing import Final

import structlog
from msgspec import Struct

from userproxy.routing.balancers.custom import MakeChooser

if typing.TYPE_CHECKING:
    from importlib.metadata import EntryPoint

log = structlog.get_logger()

GROUP: Final = "userproxy.balancers"


class InstalledNames(Struct, frozen=True):
    """The names of those that are installed, which are looked up when a name is first asked for."""

    def __contains__(self, name: object) -> bool:
        return name in installed()


class InstalledBalancers:
    """Imports those that are asked for, each once. `later` has a function called on the loop, from any thread."""

    def __init__(self, later: Callable[[Callable[[], None]], object]) -> None:
        self.clock = time.perf_counter
        self._later = later
        self._known: dict[str, MakeChooser | str] = {}
        self._waiting: dict[str, list[Callable[[], None]]] = {}

    def find(self, name: str, known: Callable[[], None]) -> MakeChooser | str | None:
        """See :class:`~userproxy.routing.balancers.custom.CustomBalancers`."""
        found = self._known.get(name)
        if found is not None:
            return found
        entry = installed().get(name)
        if entry is None:
            return "no package that is installed here has it"
        if name in self._waiting:
            self._waiting[name].append(known)
        else:
            self._waiting[name] = [known]
            Thread(target=self._load, args=(entry,), name=f"import of balancer {name}", daemon=True).start()
        return None

    def _load(self, entry: "EntryPoint") -> None:
        """Import one. In a thread."""
        found: MakeChooser | str
        try:
            found = entry.load()
            if not callable(found):
                found = f"{entry.value} cannot be called"
        except BaseException as error:  # noqa: BLE001 -- it is another package's code, which may even call sys.exit()
            found = f"{entry.value} cannot be imported: {type(error).__name__}: {str(error)[:100]}"
        with suppress(RuntimeError):  # the loop is closed
            self._later(lambda: self._note(entry.name, found))

    def _note(self, name: str, found: MakeChooser | str) -> None:
        self._known[name] = found
        for known in self._waiting.pop(name):
            known()


@lru_cache(maxsize=1)
def installed() -> "Mapping[str, EntryPoint]":
    """The entry points by name: of two of one name the first that is found. Takes some 20 ms, once."""
    from importlib.metadata import entry_points  # a tenth of what a data process imports, and seldom asked for

    found: dict[str, EntryPoint] = {}
    try:
        for entry in entry_points(group=GROUP):
            found.setdefault(entry.name, entry)
    except Exception as error:  # noqa: BLE001 -- a broken package must not cost what asks for another one
        log.warning("Installed packages cannot be looked at for balancers", reason=f"{type(error).__name__}: {error}")
    return found

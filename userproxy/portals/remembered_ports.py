"""Local ports that outlive the process: a file says which ones each service port had, for the next process to ask for.

Rules of the other drivers tell that by themselves. Blocking: meant for a thread.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog

from userproxy.addresses import HIGHEST_PORT
from userproxy.model import IPFamily, Protocol, ServicePortName

log = structlog.get_logger()

_MOST_SOURCES: Final = 32
_MOST_PORTS: Final = 20_000
"""Of one source; more listeners than the limit of open files usually allows."""

_LARGEST_FILE: Final = 64 << 20

_Port = Annotated[int, msgspec.Meta(ge=1, le=HIGHEST_PORT)]
_Ports = dict[str, tuple[_Port, ...]]


class RememberedPorts:
    """The ports of one source of Services, say one cluster, in one address family.

    `path` may be shared by processes with other sources. What cannot be read or written is logged once, and costs
    nothing but the ports' stability.
    """

    def __init__(self, path: Path, source: str, family: IPFamily) -> None:
        self._path = path
        self._key = f"{family} {source}"
        self._told = False

    def read(self) -> Mapping[ServicePortName, tuple[int, ...]]:
        """The local ports that each service port had last, the first for its cluster IP."""
        found = self._file().get(self._key, {})
        return {name: ports for text, ports in found.items() if (name := _name(text)) is not None}

    def write(self, changed: Mapping[ServicePortName, Sequence[int]]) -> None:
        """Remember the ports of `changed`, and those of all others as before.

        A service port that is gone keeps its place in the file, so that it has the same ports when it comes back; where
        there are too many, those that changed longest ago are forgotten.
        """
        if not changed:
            return
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with self._locked():
                everything = self._file()
                ports = everything.pop(self._key, {})
                for name, numbers in changed.items():
                    ports.pop(_text(name), None)
                    ports[_text(name)] = tuple(numbers)
                everything[self._key] = dict(list(ports.items())[-_MOST_PORTS:])
                self._replace(dict(list(everything.items())[-_MOST_SOURCES:]))
        except OSError as error:
            self._tell(f"cannot be written: {error.strerror}")

    def _file(self) -> dict[str, _Ports]:
        try:
            if self._path.stat().st_size > _LARGEST_FILE:
                self._tell(f"is larger than {_LARGEST_FILE >> 20} MiB")
                return {}
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Ports])
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._tell(f"cannot be read: {error.strerror}")
        except msgspec.DecodeError as error:
            self._tell(f"is not what userproxy wrote: {error}")
        return {}

    def _replace(self, everything: dict[str, _Ports]) -> None:
        """A process that is killed meanwhile leaves the old file."""
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            new.write_bytes(msgspec.json.encode(everything))
            new.replace(self._path)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._path.with_name(f"{self._path.name}.lock")
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            log.warning("Local ports are not remembered", file=str(self._path), reason=f"{self._path} {what}")


def default_path() -> Path:
    """In $XDG_STATE_HOME or ~/.local/state (XDG Base Directory Specification); for root in /run."""
    if os.geteuid() == 0:
        return Path("/run/userproxy/local-ports.json")
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return home / "userproxy" / "local-ports.json"


def _text(name: ServicePortName) -> str:
    return f"{name.namespace}/{name.name}:{name.port}/{name.protocol}"


def _name(text: str) -> ServicePortName | None:
    namespace, _, rest = text.partition("/")
    service, _, rest = rest.partition(":")
    port, _, protocol = rest.rpartition("/")
    if protocol not in set(Protocol):
        return None
    return ServicePortName(namespace, service, port, Protocol(protocol))

"""Asks a running proxy by its admin socket. Blocking, and made of the standard library alone.

Every failure is an AdminError with one sentence, which says what to do.
"""

import http.client
import json
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode

from userproxy import __version__
from userproxy.admin.paths import default_socket
from userproxy.errors import UserproxyError

Parameter: TypeAlias = str | int | bool | Sequence[str] | None
"""The value of a query parameter; None, an empty text and an empty list leave it out."""

RETRY_AFTER: Final = "Retry-After"
"""The header of a refusal that says that the answer can be had soon (RFC 9110): another process serves by then."""

AGAIN_SECONDS: Final = 0.05
"""How long who has had no answer waits before it asks again."""
MOST_TRIES: Final = 10
"""How often it asks in all: a successor that has taken over answers at once, and nobody else needs to be waited for."""

_SERVER: Final = "userproxy/"
_PAGE: Final = 2000
_PIECE: Final = 65_536


class AdminError(UserproxyError):
    """A running proxy could not be asked, or has refused the question."""


class LeftError(AdminError):
    """The process that was asked has left before it could answer. If it was taken over, another one does."""


class CutOffError(AdminError):
    """A watch was ended by the proxy, because its lines were not read fast enough. `lost` counts what was not sent."""

    def __init__(self, text: str, lost: int) -> None:
        super().__init__(text)
        self.lost = lost


class AdminClient:
    """Asks the proxy that listens at `path`, which is the usual place if it is None or empty.

    `seconds` is how long an answer may take to begin, and a list to go on. With `any_version` a proxy of another
    version than this command is asked, too. Raises AdminError where there is no usual place.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, seconds: float = 10.0, *, any_version: bool = False
    ) -> None:
        found = Path(path) if path else default_socket()
        if found is None:
            raise AdminError(
                "there is no usual place for the admin socket, because XDG_RUNTIME_DIR is not set:"
                " say with --admin-socket where the running userproxy has it"
            )
        self.path = found
        self._seconds = seconds
        self._any_version = any_version

    def get(self, route: str, **parameters: Parameter) -> dict[str, Any]:
        """The whole answer of ``/v1/<route>``: an object, or a list as ``{"items": [...], "next": ...}``.

        Who leaves before it has answered may have been taken over from: then it is asked for again.
        """
        for _ in range(MOST_TRIES - 1):
            with suppress(LeftError):
                return self._got(route, parameters)
            time.sleep(AGAIN_SECONDS)
        return self._got(route, parameters)

    def post(self, route: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What ``/v1/<route>`` answers to a change; fields of None are left out."""
        text = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        with self._asked(route, {}, method="POST", body=text) as answer:
            return self._decoded(answer.read())

    def delete(self, route: str, **parameters: Parameter) -> dict[str, Any]:
        """What ``/v1/<route>`` answers when it is to end what the parameters are about."""
        with self._asked(route, parameters, method="DELETE") as answer:
            return self._decoded(answer.read())

    def items(self, route: str, **parameters: Parameter) -> Iterator[dict[str, Any]]:
        """All items of a list, fetched page by page; ``limit`` is the size of a page then."""
        limit = parameters.pop("limit", None) or _PAGE
        while True:
            page = self.get(route, limit=limit, **parameters)
            yield from page["items"]
            if page.get("next") is None:
                return
            parameters["after"] = page["next"]

    def watch(self, route: str, **parameters: Parameter) -> Iterator[dict[str, Any]]:
        """The changes of a list as they come: objects with ``type`` and ``object``.

        What there is already comes first, as ADDED, up to a line of the type SYNCED. Raises CutOffError when the proxy
        has cut us off, and AdminError when it has ended.
        """
        yield from self.lines(route, **parameters, watch=True)
        raise AdminError("the watch is over: userproxy is being stopped, or its lines were left unread for too long")

    def lines(self, route: str, **parameters: Parameter) -> Iterator[dict[str, Any]]:
        """The objects of an answer that has one on each line, as they come. Raises CutOffError as :meth:`watch`."""
        with self._asked(route, parameters, seconds=None) as answer:
            while line := answer.readline():
                change = self._decoded(line)
                if change.get("type") == "ERROR":
                    raise CutOffError(
                        str(change.get("message", "the proxy has ended the watch")), change.get("lost", 0)
                    )
                yield change

    def pieces(self, route: str, **parameters: Parameter) -> Iterator[bytes]:
        """The bytes of an answer that is no JSON, as they come."""
        with self._asked(route, parameters, seconds=None) as answer:
            while piece := answer.read1(_PIECE):
                yield piece

    def _got(self, route: str, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        with self._asked(route, parameters) as answer:
            return self._decoded(answer.read())

    @contextmanager
    def _asked(
        self,
        route: str,
        parameters: Mapping[str, Parameter],
        seconds: float | None = 0,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to one request, with its head read and found good. `seconds` of None waits for ever after that."""
        connection = _UnixConnection(self.path, self._seconds)
        try:
            with self._sentences():
                with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before that
                    connection.request(method, f"/v1/{route}{_query(parameters)}", body)
                answer = connection.getresponse()
                self._check(answer)
                if seconds is None and connection.sock is not None:
                    connection.sock.settimeout(None)
                yield answer
        finally:
            connection.close()

    def _check(self, answer: http.client.HTTPResponse) -> None:
        ensure_ours(self.path, answer.headers.get("Server", ""), any_version=self._any_version)
        if answer.status != http.client.OK:
            text = str(self._decoded(answer.read()).get("error", f"userproxy answers {answer.status}"))
            raise LeftError(text) if RETRY_AFTER in answer.headers else AdminError(text)

    def _decoded(self, text: bytes) -> dict[str, Any]:
        decoded = json.loads(text)
        if not isinstance(decoded, dict):
            raise TypeError
        return decoded

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise AdminError(f"userproxy at {self.path} has not answered within {self._seconds:g} s") from error
        except (ConnectionResetError, BrokenPipeError) as error:
            raise LeftError(why_not(self.path, error)) from error
        except http.client.IncompleteRead as error:
            raise LeftError(f"the answer at {self.path} breaks off: was that userproxy just stopped?") from error
        except http.client.HTTPException as error:
            text = f"the answer at {self.path} breaks off or is no HTTP: is that a userproxy, and was it just stopped?"
            raise AdminError(text) from error
        except (ValueError, TypeError) as error:
            text = f"the answer at {self.path} is not what userproxy says: name its socket with --admin-socket"
            raise AdminError(text) from error
        except OSError as error:
            raise AdminError(why_not(self.path, error)) from error


def why_not(path: Path, error: OSError) -> str:
    """Why a proxy cannot be asked at `path`: a sentence, which says what to do."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return (
                f"there is no socket {path}: no userproxy runs here, or it runs with another --admin-socket,"
                " which this command then needs, too"
            )
        case ConnectionRefusedError() if not _is_socket(path):
            return f"{path} is not a socket: name the one of the running userproxy with --admin-socket"
        case ConnectionRefusedError():
            return f"no userproxy runs here: nobody listens at {path}, which an earlier one has left"
        case PermissionError():
            return f"{path} is not for this user: ask as root, or as the user that userproxy runs as"
        case ConnectionResetError() | BrokenPipeError():
            return f"userproxy at {path} has closed the connection: it was probably just stopped"
    return f"{path} cannot be asked: {(error.strerror or str(error)).lower()}"


def ensure_ours(path: Path, server: str, *, any_version: bool = False) -> None:
    """Raise AdminError where the `Server` header of an answer is not that of a userproxy of this very version."""
    if not server.startswith(_SERVER):
        raise AdminError(f"what answers at {path} is no userproxy: name its socket with --admin-socket")
    version = server.removeprefix(_SERVER)
    if version != __version__ and not any_version:
        raise AdminError(
            f"the userproxy that runs here is version {version}, and this command is version {__version__}:"
            " use the command that belongs to it"
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(os.fspath(self._path))


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _query(parameters: Mapping[str, Parameter]) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in parameters.items():
        if isinstance(value, bool):
            pairs.append((name, "true" if value else "false"))
        elif isinstance(value, int):
            pairs.append((name, str(value)))
        elif isinstance(value, str) or value is None:
            pairs += [(name, value)] if value else []
        else:
            pairs += [(name, each) for each in value]
    return f"?{urlencode(pairs)}" if pairs else ""

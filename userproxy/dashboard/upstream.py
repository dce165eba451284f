"""Asks a running proxy by its admin socket, without making anybody else wait.

Every failure is an AdminError with one sentence, as that of :class:`userproxy.admin.client.AdminClient`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import aiohttp
import msgspec

from userproxy.admin.client import (
    AGAIN_SECONDS,
    MOST_TRIES,
    RETRY_AFTER,
    AdminError,
    CutOffError,
    LeftError,
    ensure_ours,
    why_not,
)
from userproxy.admin.paths import default_socket
from userproxy.dashboard.figures.rates import Item

Parameters: TypeAlias = Mapping[str, str | Sequence[str]]
"""Of a query; one that may be repeated has several values."""

_SECONDS: Final = 10.0
"""How long an answer may be silent."""
_LONGEST_LINE: Final = 4 * 1024 * 1024


class RefusedError(AdminError):
    """The proxy does not do what it is asked for. The text is its sentence, `status` that of HTTP."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Upstream:
    """The admin API at `path`, the usual place if it is None. Use it as a context manager.

    Raises AdminError where there is no usual place.
    """

    def __init__(self, path: Path | None = None) -> None:
        found = path or default_socket()
        if found is None:
            raise AdminError(
                "there is no usual place for the admin socket, because XDG_RUNTIME_DIR is not set:"
                " say with --admin-socket where the running userproxy has it"
            )
        self.path = found
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(path=str(self.path), limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            read_bufsize=_LONGEST_LINE,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, route: str, parameters: Parameters | None = None) -> dict[str, Any]:
        """The whole answer of ``/v1/<route>``, of a successor where there is one by now. Raises AdminError."""
        for _ in range(MOST_TRIES - 1):
            with suppress(LeftError):
                return await self._got(route, parameters)
            await asyncio.sleep(AGAIN_SECONDS)
        return await self._got(route, parameters)

    async def _got(self, route: str, parameters: Parameters | None) -> dict[str, Any]:
        async with self._asked("GET", route, parameters) as answer:
            return _decoded(await answer.read())

    async def change(self, method: str, route: str, parameters: Parameters, body: bytes) -> dict[str, Any]:
        """What the proxy answers to a change. Raises RefusedError with its sentence, AdminError if it has gone."""
        async with self._asked(method, route, parameters, body=body) as answer:
            return _decoded(await answer.read())

    async def items(self, route: str, parameters: Parameters | None = None) -> list[Item]:
        """All items of a list. Raises AdminError."""
        found: list[Item] = (await self.get(route, parameters))["items"]
        return found

    async def lines(self, route: str, parameters: Parameters) -> AsyncGenerator[Item, None]:
        """The changes of a list as they come. Raises CutOffError as the proxy ends it, AdminError if it has gone."""
        async with self._asked("GET", route, {**parameters, "watch": "true"}, endless=True) as answer:
            async for line in answer.content:
                change = _decoded(line)
                if change.get("type") == "ERROR":
                    raise CutOffError(str(change.get("message", "")), int(change.get("lost", 0)))
                yield change
        raise AdminError("the watch is over: userproxy is being stopped")

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        route: str,
        parameters: Parameters | None,
        *,
        endless: bool = False,
        body: bytes = b"",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("not entered")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=None if endless else _SECONDS)
        with self._sentences():
            async with self._session.request(
                method,
                f"http://localhost/v1/{route}",
                params=_pairs(parameters or {}),
                data=body or None,
                timeout=timeout,
            ) as answer:
                ensure_ours(self.path, answer.headers.get("Server", ""))
                if answer.status >= 400:
                    text = _decoded(await answer.read()).get("error", f"userproxy answers {answer.status}")
                    if RETRY_AFTER in answer.headers:
                        raise LeftError(str(text))
                    raise RefusedError(str(text), answer.status)
                yield answer

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise AdminError(f"userproxy at {self.path} has not answered within {_SECONDS:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise AdminError(why_not(self.path, error.os_error)) from error
        except (
            aiohttp.ServerDisconnectedError,
            aiohttp.ClientOSError,
            aiohttp.ClientPayloadError,
            ConnectionError,
        ) as error:
            raise LeftError(why_not(self.path, ConnectionResetError())) from error
        except OSError as error:
            raise AdminError(why_not(self.path, error)) from error
        except aiohttp.ClientError as error:
            text = f"the answer at {self.path} breaks off or is no HTTP: is that a userproxy, and was it just stopped?"
            raise AdminError(text) from error
        except (msgspec.DecodeError, TypeError, KeyError) as error:
            text = f"the answer at {self.path} is not what userproxy says: name its socket with --admin-socket"
            raise AdminError(text) from error


def _decoded(text: bytes) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])


def _pairs(parameters: Parameters) -> list[tuple[str, str]]:
    return [
        (name, each) for name, value in parameters.items() for each in ([value] if isinstance(value, str) else value)
    ]

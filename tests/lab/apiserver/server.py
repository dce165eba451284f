"""The fake server in a thread of this process."""

import asyncio
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.apiserver.engine import Engine
from tests.lab.apiserver.interface import ApiServer
from tests.lab.apiserver.tls import certificates

_LONGEST_CALL = 10.0


class FakeApiServer(ApiServer):
    """An API server on 127.0.0.1 while the ``with`` block lasts.

    With `tls` it has a CA of its own, and lets in ``token`` and the client certificate in ``files``; without,
    it speaks plain HTTP and lets everybody in.
    """

    def __init__(self, port: int = 0, *, tls: bool = False, host: str = "127.0.0.1") -> None:
        super().__init__()
        self._host, self._port, self._tls = host, port, tls

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="apiserver-")
        self.files = certificates(Path(self._directory.name)) if self._tls else None
        ready: Future[Engine] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="fake apiserver")
        self._thread.start()
        self._engine = ready.result(_LONGEST_CALL)
        self.url = f"{'https' if self._tls else 'http'}://{self._host}:{self._engine.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_LONGEST_CALL)
        self._directory.cleanup()

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        work = self._engine.call(method, list(arguments), options)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LONGEST_CALL)

    def put(self, *documents: Mapping[str, Any]) -> None:
        for document in documents:
            self._engine.storage.put(document)

    async def _serve(self, ready: "Future[Engine]") -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        try:
            engine = Engine(self._host, self._port, self.files)
            if self._tls:
                engine.set_tokens([self.token])
            await engine.start()
        except BaseException as error:
            ready.set_exception(error)
            raise
        ready.set_result(engine)
        await self._end.wait()
        await engine.close()

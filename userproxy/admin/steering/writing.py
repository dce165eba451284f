"""Takes requests that change something: reads the body, has the change made, and says what came of it."""

import asyncio
from typing import Any, Final

import msgspec
from aiohttp import web

from userproxy.admin.parameters import BadParameterError, parse
from userproxy.admin.rows import Planes
from userproxy.admin.steering.refusals import RefusedError
from userproxy.admin.steering.routes import WriteRoute

MOST_BYTES: Final = 65_536
"""Of a request's body."""

_BODY_SECONDS: Final = 10.0


async def perform(request: web.BaseRequest, route: WriteRoute, planes: Planes) -> bytes:
    """The answer to a request. Raises BadParameterError and RefusedError."""
    asked = parse(request.query.items(), route.parameters)
    body = await _read(request)
    if route.body is None:
        if body:
            raise BadParameterError("this request takes no body")
        return msgspec.json.encode(await route.perform(planes, asked))
    return msgspec.json.encode(await route.perform(planes, _decoded(body, route.body)))


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(_whole_numbers(msgspec.json.decode(body)), kind)
    except msgspec.ValidationError as error:
        raise BadParameterError(f"the body is not as it should be: {_clause(error)}") from error
    except RecursionError as error:
        raise BadParameterError("the body is not as it should be: it is nested too deeply") from error
    except msgspec.DecodeError as error:
        raise BadParameterError(f"the body is no JSON: {_clause(error)}") from error


def _whole_numbers(value: Any) -> Any:
    """The same with 5 for 5.0: in JSON there is one kind of numbers (JSON Schema, 6.1.1)."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _whole_numbers(each) for name, each in value.items()}
        case list():
            return list(map(_whole_numbers, value))
    return value


def _clause(error: Exception) -> str:
    text = str(error)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


async def _read(request: web.BaseRequest) -> bytes:
    found = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.content.iter_any():
                found += piece
                if len(found) > MOST_BYTES:
                    raise BadParameterError(f"the body has more than {MOST_BYTES} bytes")
    except TimeoutError:
        raise RefusedError(408, f"the body has not come within {_BODY_SECONDS:g} s") from None
    return bytes(found)

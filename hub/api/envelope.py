"""Answers of the HTTP API: Prometheus's JSON envelope, and the one place where errors become HTTP codes."""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import orjson
from aiohttp import web

from common.errors import (
    BrambleError,
    FormatError,
    LimitError,
    QueryCanceledError,
    QueryError,
    QueryTimeoutError,
    StorageError,
)

JSON = "application/json"
MAX_ANNOTATIONS = 10
"""Of each kind in an answer."""


class ErrorType(StrEnum):
    """`errorType` of the API (web/api/v1/api.go)."""

    BAD_DATA = "bad_data"
    EXECUTION = "execution"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    NOT_FOUND = "not_found"
    NOT_ACCEPTABLE = "not_acceptable"
    INTERNAL = "internal"


_STATUS = {
    ErrorType.BAD_DATA: 400,
    ErrorType.EXECUTION: 422,
    ErrorType.CANCELED: 499,
    ErrorType.TIMEOUT: 503,
    ErrorType.UNAVAILABLE: 503,
    ErrorType.NOT_FOUND: 404,
    ErrorType.NOT_ACCEPTABLE: 406,
    ErrorType.INTERNAL: 500,
}


class ApiError(BrambleError):
    """A request that ends with an error of this type and text; `status` overrides the type's HTTP code."""

    def __init__(self, kind: ErrorType, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status if status is not None else _STATUS[kind]


def bad(message: str) -> ApiError:
    """The request is wrong: 400 bad_data."""
    return ApiError(ErrorType.BAD_DATA, message)


def bad_parameter(name: str, problem: object) -> ApiError:
    """One parameter is wrong, in Prometheus's words."""
    return bad(f'invalid parameter "{name}": {problem}')


def classify(error: Exception) -> ApiError:
    """The API error for what a handler raised; anything that isn't ours is `internal`."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueryTimeoutError):
        return ApiError(ErrorType.TIMEOUT, str(error))
    if isinstance(error, QueryCanceledError):
        return ApiError(ErrorType.CANCELED, str(error))
    if isinstance(error, QueryError):
        return ApiError(ErrorType.EXECUTION, str(error))
    if isinstance(error, StorageError):
        return ApiError(ErrorType.INTERNAL, str(error))
    if isinstance(error, LimitError):
        return ApiError(ErrorType.EXECUTION, str(error))
    if isinstance(error, FormatError):
        return bad(str(error))
    return ApiError(ErrorType.INTERNAL, f"{type(error).__name__}: {error}")


def envelope(data: Iterable[bytes], warnings: Sequence[str] = (), infos: Sequence[str] = ()) -> Iterator[bytes]:
    """A successful answer in pieces; `data` is JSON. As in Prometheus empty lists of annotations are left out, and of
    long ones all but MAX_ANNOTATIONS.
    """
    yield b'{"status":"success","data":'
    yield from data
    if warnings:
        yield b',"warnings":' + orjson.dumps(_some(warnings, "warning"))
    if infos:
        yield b',"infos":' + orjson.dumps(_some(infos, "info"))
    yield b"}"


def _some(texts: Sequence[str], kind: str) -> list[str]:
    rest = len(texts) - MAX_ANNOTATIONS
    return [*texts[:MAX_ANNOTATIONS], f"{rest} more {kind} annotations omitted"] if rest > 0 else list(texts)


def success(data: bytes, warnings: Sequence[str] = (), infos: Sequence[str] = ()) -> web.Response:
    """A successful answer whose `data` is this JSON."""
    return web.Response(body=b"".join(envelope((data,), warnings, infos)), content_type=JSON)


def failure(error: ApiError) -> web.Response:
    """The error's envelope and HTTP code."""
    text = str(error).encode("utf-8", "replace").decode("utf-8")
    body = orjson.dumps({"status": "error", "errorType": error.kind.value, "error": text})
    response = web.Response(body=body, content_type=JSON, status=error.status)
    if error.status == 503:
        response.headers["Retry-After"] = "5"
    return response

"""Errors of a request: an HTTP status and a message, in the client's dialect."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from qwen3_mlx.errors import BusyError, ContextError, OutOfMemoryError, Qwen3Error

Dialect = Literal["openai", "anthropic"]

_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OPENAI = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}

_FIELD = re.compile(r"[a-z_]+(\[\d+\])?(\.[a-z_]+(\[\d+\])?)*")
"""A field of a request, as errors name it."""

_PLACE = re.compile(r"[a-z]+\[\d+\]")


class ApiError(Exception):
    """Why a request is refused. `param` names the field, `code` the kind of error."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self, dialect: Dialect) -> dict[str, Any]:
        """The JSON body of the error in the format of `dialect`."""
        if dialect == "anthropic":
            kind = _ANTHROPIC.get(
                self.status, "api_error" if self.status >= 500 else _ANTHROPIC[400]
            )
            said: dict[str, Any] = {"type": kind, "message": self.message}
            said |= {"details": {"error_code": self.code}} if self.code else {}
            return {"type": "error", "error": said}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _OPENAI.get(self.status, kind)
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Extra response headers: ``retry-after: 2`` with a 503."""
        return {"retry-after": "2"} if self.status == 503 else {}


def refused(field: str, got: object, why: str) -> ApiError:
    """A 400 that names the field, its value (at most 120 characters), and why it is refused."""
    return ApiError(400, f"{field}: got {json.dumps(got, default=str)[:120]}; {why}", param=field)


def from_exception(error: BaseException) -> ApiError:
    """The `ApiError` for an exception; an unforeseen one becomes a 500 without its message."""
    match error:
        case ApiError():
            return error
        case BusyError():
            return ApiError(503, str(error), code="overloaded")
        case OutOfMemoryError():
            return ApiError(413, str(error), code="out_of_memory")
        case ContextError():
            place = _PLACE.match(error.what)  # of one among many texts
            param = place[0] if place else None
            return ApiError(400, str(error), param=param, code="context_length_exceeded")
        case Qwen3Error():
            field = _FIELD.fullmatch(error.what)
            about_model = error.what.startswith("this model")
            param = error.what if field else "model" if about_model else None
            return ApiError(400, str(error), param=param)
    return ApiError(500, f"the turn failed ({type(error).__name__}); the next request works")

"""The rule of the wire: a field is honoured or refused by name, never ignored.

A client that sends `best_of` to a server that drops it gets a wrong answer and no hint; a 400 that says `"best_of" is
supported only as 1` costs a minute. So

    known and supported          a field of the request class, with its range
    known, one value supported   a row of ONE_VALUE: accepted at that value, refused by name at any other
    known to OpenAI, not to us   a row of NOT_SUPPORTED: refused by name
    anything else                refused by name, with the nearest valid name
    null                         means "the default" for every name OpenAI knows, as in their API

Numbers are strict (`"5"` is not 5, `true` is not 1), NaN and infinity are refused. Every refusal is an `ApiError`:
OpenAI's error body with a status.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from danlu.core.errors import suggest

R = TypeVar("R", bound="WireModel")


class ApiError(Exception):
    """An answer that is an OpenAI error body: `{"error": {"message", "type", "param", "code"}}` with its status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def parse_request(cls: type[R], body: bytes) -> R:
    """Body bytes to a typed request, or an ApiError 400 that names the one field that is wrong."""
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        raise _as_api_error(cls, error) from None


def _as_api_error(cls: type[WireModel], error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
    param = _path(first["loc"])
    if first["type"] == "json_invalid":
        return ApiError(400, f"the request body is not valid JSON: {first['ctx']['error']}", code="invalid_json")
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        valid = list(cls.model_fields) if len(first["loc"]) == 1 else []
        hint = f"; {suggest(name, valid)}" if valid else ""
        return ApiError(400, f'unknown field "{param}"{hint}', param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f'the field "{param}" is missing', param=param, code="missing_required_parameter")
    if first["type"] == "value_error":
        cause = first["ctx"]["error"]
        if isinstance(cause, FieldError):
            param = _path((*first["loc"], cause.name))
            return ApiError(400, f'"{param}" {cause}', param=param, code=cause.code)
        subject = f'"{param}"' if param else "the request body"
        return ApiError(400, f"{subject}: {cause}", param=param or None, code="invalid_value")
    return ApiError(400, f'"{param}": {first["msg"][0].lower()}{first["msg"][1:]}', param=param, code="invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "content")` -> `messages[0].content`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


class FieldError(ValueError):
    """A refusal by a validator of the whole object, which knows the field it is about."""

    def __init__(self, name: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.name, self.code = name, code


class WireModel(BaseModel):
    """Strict, closed, and aware of the names that OpenAI knows and danlu does not (see the opening comment)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    ONE_VALUE: ClassVar[dict[str, tuple[Any, ...]]] = {}
    NOT_SUPPORTED: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("must be a JSON object")
        kept = {}
        for name, value in data.items():
            known = name in cls.model_fields or name in cls.ONE_VALUE or name in cls.NOT_SUPPORTED
            if known and value is None:
                continue
            if name in cls.NOT_SUPPORTED:
                raise FieldError(name, "is not supported by this server", "unsupported_parameter")
            if name in cls.ONE_VALUE:
                accepted = cls.ONE_VALUE[name]
                if not any(type(value) is type(one) and value == one for one in accepted):
                    raise FieldError(name, _only(accepted), "unsupported_value")
                continue
            kept[name] = value
        return kept


def _only(accepted: tuple[Any, ...]) -> str:
    """`(False,)` -> 'is supported only as false'; a list or text that must be empty is plainly not supported."""
    if any(one or one is False for one in accepted):
        return "is supported only as " + " or ".join(json.dumps(one) for one in accepted)
    return "is not supported by this server"

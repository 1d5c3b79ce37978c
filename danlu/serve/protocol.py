"""The OpenAI wire format: what a request may say, what an answer looks like, how an error is worded.

The rule of this file: a field is honoured or refused by name, never ignored. A client that sends `tools` to a server
that drops it gets a wrong answer and no hint; a 400 that says `"tools" is not supported` costs a minute. So

    known and supported          a field of the request class, with its range
    known, one value supported   a row of ONE_VALUE: accepted at that value, refused by name at any other
    known to OpenAI, not to us   a row of NOT_SUPPORTED: refused by name
    anything else                refused by name, with the nearest valid name
    null                         means "the default" for every name OpenAI knows, as in their API

Numbers are strict (`"5"` is not 5, `true` is not 1), NaN and infinity are refused.

Shapes follow https://platform.openai.com/docs/api-reference (chat/create, completions/create); `top_k`, `min_p`,
`repetition_penalty`, `ignore_eos` and `structured_outputs` are danlu's additions and travel in the client's
`extra_body`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_serializer, model_validator

from danlu.core.errors import suggest

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_IDENTIFIER = 512

R = TypeVar("R", bound="GenerationRequest")

# --- errors ---------------------------------------------------------------------------------------------------------


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


def _as_api_error(cls: type[GenerationRequest], error: ValidationError) -> ApiError:
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
        if isinstance(cause, _FieldError):
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


class _FieldError(ValueError):
    """A refusal by a validator of the whole object, which knows the field it is about."""

    def __init__(self, name: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.name, self.code = name, code


# --- fields with several spellings ----------------------------------------------------------------------------------


def _stop(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise ValueError("must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} stop strings, got {len(stops)}")
    if not all(stops):
        raise ValueError("a stop string may not be empty")
    return stops


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int and one >= 0 for one in value)


def _prompt(value: Any) -> list[str | list[int]]:
    """The four spellings of a prompt, as the list that all of them mean."""
    if isinstance(value, str):
        return [value]
    if _is_ids(value):
        return [value]
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return list(value)
    if isinstance(value, list) and value and all(_is_ids(one) for one in value):
        return list(value)
    raise ValueError("must be a string, a list of strings, a list of token ids, or a list of lists of token ids")


def _content(value: Any) -> str:
    """Text, or a list of `{"type": "text", "text": ...}` parts, which are joined."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string or a list of text parts")
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise ValueError(f'content parts of type "{kind}" are not supported; only "text" is')
        if not isinstance(part.get("text"), str) or set(part) != {"type", "text"}:
            raise ValueError('a text part is {"type": "text", "text": "..."}')
    return "".join(part["text"] for part in value)


def _logit_bias(value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise ValueError("must be an object of token id to bias")
    bias = {}
    for key, amount in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit()):
            raise ValueError(f'"{key}" is not a token id')
        if type(amount) not in (int, float) or not -100 <= amount <= 100:
            raise ValueError(f"the bias of token {key} must be a number from -100 to 100")
        bias[int(key)] = float(amount)
    return bias


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) and len(v) <= MAX_IDENTIFIER for v in value.values()):
        raise ValueError(f"must be an object of strings of at most {MAX_IDENTIFIER} characters")
    if len(value) > 16:
        raise ValueError("at most 16 entries")
    return value


Stops = Annotated[list[str], PlainValidator(_stop)]
Prompts = Annotated[list[str | list[int]], PlainValidator(_prompt)]
Content = Annotated[str, PlainValidator(_content)]
LogitBias = Annotated[dict[int, float], PlainValidator(_logit_bias)]
Metadata = Annotated[dict[str, str], PlainValidator(_metadata)]
Identifier = Annotated[str, Field(max_length=MAX_IDENTIFIER)]


# --- requests -------------------------------------------------------------------------------------------------------


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
                raise _FieldError(name, "is not supported by this server", "unsupported_parameter")
            if name in cls.ONE_VALUE:
                accepted = cls.ONE_VALUE[name]
                if not any(type(value) is type(one) and value == one for one in accepted):
                    raise _FieldError(name, _only(accepted), "unsupported_value")
                continue
            kept[name] = value
        return kept


def _only(accepted: tuple[Any, ...]) -> str:
    """`(False,)` -> 'is supported only as false'; a list or text that must be empty is plainly not supported."""
    if any(one or one is False for one in accepted):
        return "is supported only as " + " or ".join(json.dumps(one) for one in accepted)
    return "is not supported by this server"


class JsonSchema(WireModel):
    """A schema as OpenAI's clients send it. `strict` makes no difference: a schema is always kept."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool = False


class ResponseFormat(WireModel):
    """text: any; json_object: some JSON object; json_schema: JSON that keeps the schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_belongs_to_its_type(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise _FieldError("json_schema", 'is needed with "type": "json_schema", and only there')
        return self


class StructuredOutputs(WireModel):
    """danlu's addition, with the names other servers use: exactly one of the four."""

    json_: dict[str, Any] | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> StructuredOutputs:
        if sum(value is not None for value in (self.json_, self.regex, self.choice, self.grammar)) != 1:
            raise ValueError("needs exactly one of json, regex, choice, grammar")
        return self


class StreamOptions(WireModel):
    ONE_VALUE: ClassVar[dict[str, tuple[Any, ...]]] = {"include_obfuscation": (False,)}

    include_usage: bool = False


class GenerationRequest(WireModel):
    """What the two endpoints share."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)  # 0: off
    min_p: float = Field(default=0.0, ge=0, le=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    logit_bias: LogitBias = Field(default_factory=dict)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops = Field(default_factory=list)
    ignore_eos: bool = False
    structured_outputs: StructuredOutputs | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Identifier | None = None  # written to the event log with the request

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def top_logprobs_wanted(self) -> int | None:
        """None: no log-probabilities; else how many alternatives beside the chosen token."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise _FieldError("stream_options", 'needs "stream": true')
        return self


class CompletionRequest(GenerationRequest):
    ONE_VALUE: ClassVar[dict[str, tuple[Any, ...]]] = {"echo": (False,), "suffix": ("",), "best_of": (1,)}

    prompt: Prompts
    logprobs: int | None = Field(default=None, ge=0, le=20)

    DEFAULT_MAX_TOKENS: ClassVar[int] = 16  # OpenAI's

    @property
    def top_logprobs_wanted(self) -> int | None:
        return self.logprobs


class Message(WireModel):
    """One turn. An answer of OpenAI's, with all its nulls, can be sent back as it is."""

    NOT_SUPPORTED: ClassVar[frozenset[str]] = frozenset(
        {"audio", "function_call", "moderation", "name", "refusal", "tool_call_id", "tool_calls"}
    )
    ONE_VALUE: ClassVar[dict[str, tuple[Any, ...]]] = {"annotations": ([],)}

    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    def plain(self) -> dict[str, str]:
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatRequest(GenerationRequest):
    ONE_VALUE: ClassVar[dict[str, tuple[Any, ...]]] = {
        "modalities": (["text"],),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "tool_choice": ("none",),
        "tools": ([],),
    }
    NOT_SUPPORTED: ClassVar[frozenset[str]] = frozenset(
        {
            "audio",
            "function_call",
            "functions",
            "moderation",
            "parallel_tool_calls",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "verbosity",
            "web_search_options",
        }
    )

    messages: list[Message] = Field(min_length=1)
    response_format: ResponseFormat | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    metadata: Metadata | None = None  # written to the event log with the request
    safety_identifier: Identifier | None = None  # likewise

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def top_logprobs_wanted(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise _FieldError("top_logprobs", 'needs "logprobs": true')
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise _FieldError("max_tokens", 'and "max_completion_tokens" say different things; send one of them')
        return self


# --- answers --------------------------------------------------------------------------------------------------------


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]  # characters from the start of this choice's text


FinishReason = Literal["stop", "length"]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """Also each chunk of a stream: OpenAI gives both the same `object`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str | None = None  # id of the model artifact: `danlu lineage` leads on to the sources
    choices: list[CompletionChoice]
    usage: Usage | None = None


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None = None  # id of the model artifact: `danlu lineage` leads on to the sources
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(BaseModel):
    """Only what is new: an absent field is left out, not null."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer
    def _without_nulls(self) -> dict[str, str]:
        return {name: value for name, value in (("role", self.role), ("content", self.content)) if value is not None}


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str | None = None  # id of the model artifact: `danlu lineage` leads on to the sources
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """OpenAI's four fields, and two of danlu's: a client can see the limit before it meets it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "danlu"
    context_length: int
    chat: bool


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]

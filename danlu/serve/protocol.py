"""The OpenAI wire format: what a request may say, what an answer looks like, how an error is worded.

What is common to all of it, that a field is honoured or refused by name, is in `wire.py`; tools are in `tools.py`.

Shapes follow https://platform.openai.com/docs/api-reference (chat/create, completions/create); `top_k`, `min_p`,
`repetition_penalty`, `ignore_eos`, `priority` and `structured_outputs` are danlu's additions and travel in the
client's `extra_body`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, PlainValidator, model_serializer, model_validator

from danlu.core.errors import suggest
from danlu.serve.tools import MAX_CALLS, MAX_TOOLS, CallId, NamedTool, Tool, ToolCall, ToolChoice, check_tools
from danlu.serve.wire import FieldError, WireModel

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_IDENTIFIER = 512

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
            raise FieldError("json_schema", 'is needed with "type": "json_schema", and only there')
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
    top_k: int = Field(default=0, ge=0, lt=2**31)  # 0: off
    min_p: float = Field(default=0.0, ge=0, le=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    logit_bias: LogitBias = Field(default_factory=dict)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops = Field(default_factory=list)
    ignore_eos: bool = False
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)  # of those that wait, the lowest begins first
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

    @property
    def prompt_logprobs_wanted(self) -> int | None:
        """The same of the prompt's tokens."""
        return None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise FieldError("stream_options", 'needs "stream": true')
        return self


class CompletionRequest(GenerationRequest):
    ONE_VALUE: ClassVar[dict[str, tuple[Any, ...]]] = {"suffix": ("",), "best_of": (1,)}

    prompt: Prompts
    max_tokens: int | None = Field(default=None, ge=0)  # 0 with echo: the prompt alone
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool = False  # the prompt stands before each answer; with logprobs its tokens are scored too

    DEFAULT_MAX_TOKENS: ClassVar[int] = 16  # OpenAI's

    @property
    def top_logprobs_wanted(self) -> int | None:
        return self.logprobs

    @property
    def prompt_logprobs_wanted(self) -> int | None:
        if not self.echo:
            return None
        # Without an answer the scores are what the engine is asked for, though nobody reads them.
        return 0 if self.logprobs is None and self.max_tokens == 0 else self.logprobs

    @model_validator(mode="after")
    def _no_answer_needs_echo(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise FieldError("max_tokens", 'may be 0 only with "echo": true')
        return self


class Message(WireModel):
    """One turn. An answer of OpenAI's, with all its nulls, can be sent back as it is."""

    NOT_SUPPORTED: ClassVar[frozenset[str]] = frozenset({"audio", "function_call", "moderation", "name", "refusal"})
    ONE_VALUE: ClassVar[dict[str, tuple[Any, ...]]] = {"annotations": ([],)}

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None  # only beside tool_calls
    tool_calls: list[ToolCall] | None = Field(default=None, min_length=1)
    tool_call_id: CallId | None = None

    @model_validator(mode="after")
    def _fields_belong_to_their_role(self) -> Message:
        if self.tool_calls is not None and self.role != "assistant":
            raise FieldError("tool_calls", 'belong to the role "assistant"')
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise FieldError("tool_call_id", 'is needed with the role "tool", and only there')
        if self.content is None and self.tool_calls is None:
            raise FieldError("content", "is missing", "missing_required_parameter")
        return self

    def plain(self) -> dict[str, Any]:
        """As templates take it."""
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.content or "",
        }
        if self.tool_calls is not None:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class ChatRequest(GenerationRequest):
    ONE_VALUE: ClassVar[dict[str, tuple[Any, ...]]] = {
        "modalities": (["text"],),
        "service_tier": ("auto", "default"),
        "store": (False,),
    }
    NOT_SUPPORTED: ClassVar[frozenset[str]] = frozenset(
        {
            "audio",
            "function_call",
            "functions",
            "moderation",
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
    tools: list[Tool] = Field(default_factory=list, min_length=1, max_length=MAX_TOOLS)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
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

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that this answer may call."""
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.tools if tool.function.name == self.tool_choice.name]
        return [] if self.tool_choice == "none" else self.tools

    @property
    def must_call(self) -> bool:
        return self.tool_choice not in ("none", "auto")

    @property
    def bare_calls(self) -> bool:
        """Whether an answer that begins as the JSON of a call is one. A stop string would not spare it."""
        return not self.must_call and not self.stop

    @property
    def most_calls(self) -> int:
        return MAX_CALLS if self.parallel_tool_calls and not isinstance(self.tool_choice, NamedTool) else 1

    @model_validator(mode="after")
    def _tools_agree(self) -> ChatRequest:
        if not self.tools:
            for name in ("tool_choice", "parallel_tool_calls"):
                if name in self.model_fields_set and getattr(self, name) != "none":
                    raise FieldError(name, 'needs "tools"')
        check_tools(self.tools)
        if isinstance(self.tool_choice, NamedTool) and not self.callable_tools:
            names = [tool.function.name for tool in self.tools]
            raise FieldError("tool_choice", f"names no tool of this request; {suggest(self.tool_choice.name, names)}")
        made: set[str] = set()
        for i, message in enumerate(self.messages):
            made.update(call.id for call in message.tool_calls or ())
            if message.tool_call_id is not None and message.tool_call_id not in made:
                raise FieldError(f"messages[{i}].tool_call_id", "names no call of an earlier message")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise FieldError("top_logprobs", 'needs "logprobs": true')
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise FieldError("max_tokens", 'and "max_completion_tokens" say different things; send one of them')
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
    token_logprobs: list[float | None]  # null: the first token of a prompt, which follows nothing
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]  # characters from the start of this choice's text


FinishReason = Literal["stop", "length", "tool_calls"]


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


class CalledFunction(BaseModel):
    name: str
    arguments: str  # JSON


class AnswerCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AnswerMessage(BaseModel):
    """`content` is null where there are only calls, `tool_calls` is left out where there are none."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[AnswerCall] | None = None

    @model_serializer(mode="wrap")
    def _without_no_calls(self, dump: Callable[[AnswerMessage], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name != "tool_calls" or value is not None}


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


class Sparse(BaseModel):
    """Only what is new: an absent field is left out, not null."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, dump: Callable[[Sparse], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


class FunctionDelta(Sparse):
    name: str | None = None
    arguments: str


class CallDelta(Sparse):
    """The first of call number `index` has its id, type and name; the arguments of all, joined, are its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatDelta(Sparse):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = None


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
    """OpenAI's four fields, and three of danlu's: a client can see the limit before it meets it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "danlu"
    context_length: int
    chat: bool
    parent: str | None = None  # of an adapter: the model that it changes


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]

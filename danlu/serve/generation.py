"""The one path from a prompt to pieces of text: the API and the chat page both take it.

    prompts or messages -> token ids -> limits checked -> ticket in the worker -> pieces

A `Piece` is what one engine step made for one choice. `Generation` is the running request: iterate it for its pieces,
read its counters for `usage`, and leave its `with` block, by the end or by an exception, and the engine's slots are
free again. That is the whole of cancellation: whoever consumes the pieces goes away, the block is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from danlu.core.errors import UserError
from danlu.serve.protocol import ChatRequest
from danlu.serve.wire import ApiError
from danlu.serve.worker import EngineWorker, Overloaded, Ticket

if TYPE_CHECKING:
    from danlu.core.events import Events
    from danlu.engine import Delta, Engine, Grammar, Replicas, Sampling
    from danlu.serve.metrics import Metrics
    from danlu.serve.protocol import GenerationRequest
    from danlu.tokenizer import Tokenizer

ENCODE_IN_THREAD = 4096  # characters; below this, handing the text to a thread costs more than encoding it (not tuned)

A = TypeVar("A")
T = TypeVar("T")
TokenScore = tuple[int, float]  # token id, log-probability


@dataclass(frozen=True)
class ScoredToken:
    """A token with its log-probability (None: it begins the prompt) and the alternatives, most likely first."""

    id: int
    logprob: float | None
    top: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class Piece:
    """What one step made for one choice. `tokens` counts the generated ones."""

    choice: int
    text: str
    tokens: int
    scored: tuple[ScoredToken, ...]
    finish: Literal["stop", "length"] | None
    embedding: tuple[float, ...] | None = None


@dataclass
class ServedModel:
    """A name, the engine behind it, and the worker that runs it. An adapter shares both with its base, `parent`."""

    name: str
    engine: Engine | Replicas
    worker: EngineWorker
    parent: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.engine.tokenizer

    @property
    def adapter(self) -> str | None:
        """Its name in the engine."""
        return self.name if self.parent is not None else None

    @property
    def artifact_id(self) -> str | None:
        """What the answers come from, if it lies in a store: the adapter's lineage leads to its base."""
        if self.adapter is None:
            return self.engine.artifact_id
        loaded = self.engine.adapters.get(self.adapter)
        return loaded.artifact_id if loaded is not None else None

    @property
    def chat(self) -> bool:
        return self.tokenizer is not None and self.tokenizer.chat_template is not None

    @property
    def context_length(self) -> int:
        return self.engine.max_context

    @property
    def running(self) -> int:
        return self.engine.stats.running

    @property
    def waiting(self) -> int:
        return self.engine.stats.waiting

    @property
    def kv_used(self) -> float:
        return self.engine.stats.kv_used

    @property
    def prefix_hit(self) -> float:
        stats = self.engine.stats
        return stats.prefix_hits / max(stats.prefix_tokens, 1)

    @property
    def speed(self) -> float:
        return self.engine.stats.tokens_per_second


# --- prompts to ids -------------------------------------------------------------------------------------------------


async def encode_prompts(
    served: ServedModel, prompts: Sequence[str | list[int]], param: str = "prompt"
) -> list[list[int]]:
    """Texts to ids; ids stay (the engine checks them against its vocabulary)."""
    return [await _encode(served.engine.encode, prompt, len(prompt), param) for prompt in prompts]


def echo_of(served: ServedModel, prompts: Sequence[str | list[int]]) -> list[str]:
    """How prompts read before their answers: a text as it came, ids as an answer of these tokens would read."""
    decode = served.tokenizer.decode if served.tokenizer is not None else None
    return [
        prompt if isinstance(prompt, str) else decode(prompt, skip_special=True) if decode is not None else ""
        for prompt in prompts
    ]


async def encode_chat(
    served: ServedModel, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
) -> list[list[int]]:
    """Messages and tools to the ids of the rendered chat template, ready for the assistant's answer."""
    if served.tokenizer is not None and not served.chat:
        message = f'model "{served.name}" has no chat template: it continues text; use /v1/completions'
        raise ApiError(400, message, param="model", code="model_has_no_chat_template")

    def encode(messages: list[dict[str, Any]]) -> list[int]:
        from danlu.tokenizer.tools import for_template

        if served.tokenizer is None:
            return served.engine.encode(messages)  # which says what is missing
        messages, known = for_template(served.tokenizer, messages, tools)
        return served.tokenizer.encode_chat(messages, add_generation_prompt=True, tools=known)

    size = sum(len(message["content"]) for message in messages) + sum(len(str(tool)) for tool in tools)
    return [await _encode(encode, messages, size, "messages")]


async def _encode(call: Callable[[A], list[int]], prompt: A, size: int, param: str) -> list[int]:
    """A prompt to ids. Refusals (no tokenizer, the template says no) become 400."""
    try:
        return await _maybe_in_thread(size, call, prompt)
    except UserError as error:
        raise ApiError(400, str(error), param=param, code="invalid_value") from None


async def _maybe_in_thread(size: int, call: Callable[[A], T], argument: A) -> T:
    return call(argument) if size < ENCODE_IN_THREAD else await asyncio.to_thread(call, argument)


# --- limits and sampling --------------------------------------------------------------------------------------------


def sampling_for(
    served: ServedModel, prompts: Sequence[list[int]], request: GenerationRequest, default_max_tokens: int | None
) -> Sampling:
    """The engine's `Sampling` for a request. ApiError 400 when prompt and answer do not fit into the context."""
    from danlu.engine import Sampling

    longest = max(len(ids) for ids in prompts)
    context = served.context_length
    room = context - longest
    wanted = request.token_limit
    least = 1 if wanted is None else wanted
    if room < least:
        answer = "at least 1" if wanted is None else wanted
        asked = f"{longest + least} tokens ({longest} in the prompt, {answer} for the answer)"
        message = f"this model's context length is {context} tokens, but the request needs {asked}"
        where = "messages" if default_max_tokens is None else "prompt"
        raise ApiError(400, message, param=where, code="context_length_exceeded")
    sampling = Sampling(
        max_tokens=wanted if wanted is not None else min(room, default_max_tokens or room),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        n=request.n,
        stop=request.stop,
        seed=request.seed,
        logprobs=request.top_logprobs_wanted,
        prompt_logprobs=request.prompt_logprobs_wanted,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=request.logit_bias,
        ignore_eos=request.ignore_eos,
        grammar=grammar_of(request),
    )
    if isinstance(request, ChatRequest) and request.callable_tools:
        return _calling(served, request, sampling)
    return sampling


def _calling(served: ServedModel, request: ChatRequest, sampling: Sampling) -> Sampling:
    """The sampling of an answer that may call tools. ApiError 400 when it must have another form as well.

    A stop string ends text. In a call it would leave half of one, so it is not looked for there.
    """
    from danlu.engine import Grammar
    from danlu.tokenizer.tools import PLAIN, TAG, call_form

    if sampling.grammar is not None:
        name = _form_field(request)
        raise ApiError(400, f'the request has tools and {name}; send one, or "tool_choice": "none"', param=name)
    assert served.tokenizer is not None, "its messages were encoded"
    tools = {tool.function.name: tool.function.arguments_schema for tool in request.callable_tools}
    form, text = call_form(served.tokenizer) or PLAIN, not request.must_call
    return replace(
        sampling,
        grammar=Grammar.tool_calls(form, tools, most=request.most_calls, text=text, bare=request.bare_calls),
        stop=sampling.stop if text else (),
        stop_before=TAG,
        skip_special=False,  # in some vocabularies <tool_call> is one
    )


def grammar_of(request: GenerationRequest) -> Grammar | None:
    """The form that a request asks for. ApiError 400 when it asks for two."""
    from danlu.engine import Grammar

    wanted = request.structured_outputs
    form = request.response_format if isinstance(request, ChatRequest) else None
    if form is not None and form.type != "text":
        if wanted is not None:
            raise ApiError(
                400, "the request has response_format and structured_outputs; send one", param="response_format"
            )
        schema = form.json_schema.schema_ if form.json_schema is not None else {"type": "object"}
        return Grammar.json_schema(schema)
    if wanted is None:
        return None
    try:
        if wanted.json_ is not None:
            return Grammar.json_schema(wanted.json_)
        if wanted.regex is not None:
            return Grammar.regex(wanted.regex)
        return Grammar.choice(wanted.choice) if wanted.choice is not None else Grammar.lark(wanted.grammar or "")
    except UserError as error:
        raise ApiError(400, str(error), param="structured_outputs", code="invalid_value") from None


def _form_field(request: GenerationRequest) -> str:
    """The field in which a request asks for a form: a refusal names it."""
    return "structured_outputs" if request.structured_outputs is not None else "response_format"


async def prepare(served: ServedModel, sampling: Sampling, request: GenerationRequest) -> None:
    """Compile the form of a request outside the event loop. ApiError 400 when it is refused."""
    if sampling.grammar is None:
        return
    try:
        await asyncio.to_thread(served.engine.prepare, sampling)
    except UserError as error:
        param = "tools" if sampling.grammar.kind == "tool_calls" else _form_field(request)
        raise ApiError(400, str(error), param=param, code="invalid_value") from None


# --- the running request --------------------------------------------------------------------------------------------


class Generation:
    """A request in the engine (see the opening comment). `tags` go to the event log with the outcome.

    With `echo`, a text for each prompt, the first piece of every choice is its prompt, with the scores asked for.
    """

    def __init__(
        self,
        served: ServedModel,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        *,
        metrics: Metrics,
        events: Events,
        endpoint: str,
        priority: int = 0,
        echo: Sequence[str] | None = None,
        tags: dict[str, Any] | None = None,
    ) -> None:
        self.served, self.prompts, self.sampling, self.priority = served, prompts, sampling, priority
        self.echo = echo
        self.metrics, self.events, self.endpoint, self.tags = metrics, events, endpoint, tags or {}
        self.prompt_tokens = sum(len(ids) for ids in prompts)
        self.completion_tokens = 0
        self.outcome = "cancelled"
        self.started = time.perf_counter()
        self.first: float | None = None
        self.last = self.started
        self._ticket: Ticket | None = None

    def submit(self) -> None:
        """Enter the worker's queue. Raises ApiError when the server is full or shutting down."""
        try:
            served = self.served
            self._ticket = served.worker.submit(self.prompts, self.sampling, self.priority, served.adapter)
        except ApiError as error:
            self.metrics.requests.labels(self.served.name, self.endpoint, "refused").inc()
            if isinstance(error, Overloaded):
                self.metrics.overloaded.labels(self.served.name, error.reason).inc()
            raise

    def release(self) -> None:
        """Free the slots and account for the request. Must follow `submit`, whatever happened in between."""
        assert self._ticket is not None
        self.served.worker.cancel(self._ticket)
        self._account()

    def __enter__(self) -> Generation:
        self.submit()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is made, as it is made, until the last choice has finished."""
        assert self._ticket is not None
        finishes = set()
        unopened = set(range(len(self.prompts) * self.sampling.n)) if self.echo is not None else set()
        try:
            async for choice, delta in self._ticket.deltas():
                self.last = time.perf_counter()
                if self.first is None:
                    self.first = self.last
                piece = _piece(self.served, choice, delta, keep_end=self.echo is not None)
                self.completion_tokens += piece.tokens
                if piece.finish is not None:
                    finishes.add(piece.finish)
                if choice in unopened:
                    unopened.remove(choice)
                    yield self._prompt(choice, delta)
                yield piece
        except Exception:
            self.outcome = "failed"
            raise
        self.outcome = "length" if "length" in finishes else "stop"

    def _prompt(self, choice: int, delta: Delta) -> Piece:
        """The prompt of a choice as its first piece; `delta` is the choice's first."""
        assert self.echo is not None
        number = choice // self.sampling.n
        scored: tuple[ScoredToken, ...] = ()
        if self.sampling.logprobs is not None:
            rest = (ScoredToken(t.token_id, t.logprob, t.top) for t in delta.prompt_logprobs or ())
            scored = (ScoredToken(self.prompts[number][0], None), *rest)
        return Piece(choice, self.echo[number], 0, scored, None)

    @property
    def tokens_per_second(self) -> float:
        """Speed of the answer after its first token; 0 until there are two."""
        if self.first is None or self.last <= self.first:
            return 0.0
        return (self.completion_tokens - 1) / (self.last - self.first)

    def _account(self) -> None:
        name, metrics = self.served.name, self.metrics
        seconds = time.perf_counter() - self.started
        metrics.requests.labels(name, self.endpoint, self.outcome).inc()
        metrics.prompt_tokens.labels(name).inc(self.prompt_tokens)
        metrics.generated_tokens.labels(name).inc(self.completion_tokens)
        metrics.duration.labels(name, self.endpoint).observe(seconds)
        if self.first is not None and self.completion_tokens:
            metrics.first_token.labels(name).observe(self.first - self.started)
            choices = len(self.prompts) * self.sampling.n
            if self.completion_tokens > choices:
                mean = (self.last - self.first) * choices / (self.completion_tokens - choices)
                metrics.between_tokens.labels(name).observe(mean)
        self.events.emit(
            "request",
            model=name,
            endpoint=self.endpoint,
            outcome=self.outcome,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            seconds=round(seconds, 4),
            **self.tags,
        )


def _piece(served: ServedModel, choice: int, delta: Delta, keep_end: bool) -> Piece:
    if delta.finish_reason == "error":
        message = "the model gave a value that is not a number, or the parser of its form gave up"
        raise ApiError(500, message, kind="server_error", code="model_error")
    if delta.finish_reason == "lost":
        message = "the process that was writing this answer has ended; send the request again"
        raise ApiError(500, message, kind="server_error", code="replica_lost")
    finish: Literal["stop", "length"] | None = None
    if delta.finish_reason is not None:
        finish = "stop" if delta.finish_reason == "stop" else "length"
    # The token that says "the end" is not part of the text, so it is not scored either; usage counts it. Behind an echo
    # it is: who scores a prompt finds its tokens by counting, often from the end.
    ends = served.engine.stop_ids if finish == "stop" and not keep_end else frozenset()
    scored = tuple(ScoredToken(t.token_id, t.logprob, t.top) for t in delta.logprobs or () if t.token_id not in ends)
    return Piece(choice, delta.text, len(delta.token_ids), scored, finish, delta.embedding)

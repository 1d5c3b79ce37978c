"""What is asked of the engine and what comes back.

    Request   one prompt and one Sampling          what the caller holds
      Sequence x n   tokens, blocks, text          what the scheduler moves; `n` of them when the caller wants n answers
        Delta        what one step added           what a stream shows
        Output       the whole answer              what `generate` returns

`Sampling` has the names and meanings of the OpenAI API, plus `top_k`, `min_p`, `repetition_penalty` and `ignore_eos`,
which every open engine has. A value out of range is a `UserError` when the object is made, so that nothing wrong can
reach a running batch.

This file knows nothing of tensors: the command line and the server import it without torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from collections.abc import Sequence as ListLike
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError, expect

if TYPE_CHECKING:
    import torch

    from danlu.engine.adapters import LoadedAdapter
    from danlu.engine.detokenize import TextStream
    from danlu.engine.pooling import Pool
    from danlu.engine.structured import Matcher
    from danlu.tokenizer.tools import CallForm

# Below this a temperature is greedy: dividing logits by it would overflow float32.
GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class Grammar:
    """A form that an answer keeps (structured.py). Whether it can be compiled is known when a request is made.

    kind         source
    json_schema  a JSON schema, as JSON text
    regex        a regular expression in Rust's syntax, for the whole answer
    choice       a JSON list of texts: the answer is one of them
    lark         a grammar in Lark's syntax, beginning with the rule `start`
    tool_calls   JSON of what `Grammar.tool_calls` takes
    """

    kind: str
    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in _GRAMMARS:
            raise UserError(f'there is no kind of grammar "{self.kind}"', "one of: " + ", ".join(_GRAMMARS))
        expect(f"the source of a {self.words}", self.source, str, "text")
        try:
            self.source.encode()
        except UnicodeEncodeError:
            raise UserError(f"the {self.words} holds half a character (a surrogate)", "it must be UTF-8 text") from None

    @property
    def words(self) -> str:
        return _GRAMMARS[self.kind]

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Grammar:
        expect("a JSON schema", schema, Mapping, "a mapping")
        try:
            return cls("json_schema", json.dumps(schema, ensure_ascii=False))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the JSON schema is no JSON: {error}", "it holds mappings, lists, text and numbers"
            ) from None

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        return cls("regex", pattern)

    @classmethod
    def choice(cls, texts: ListLike[str]) -> Grammar:
        expect("a choice", texts, (list, tuple), "a list of texts")
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise UserError("a choice needs at least one text, and no empty one")
        return cls("choice", json.dumps(list(texts), ensure_ascii=False))

    @classmethod
    def lark(cls, grammar: str) -> Grammar:
        return cls("lark", grammar)

    @classmethod
    def tool_calls(
        cls,
        form: CallForm,
        tools: Mapping[str, Mapping[str, Any]],
        *,
        most: int,
        text: bool = False,
        bare: bool = False,
    ) -> Grammar:
        """Calls of tools, written in `form`; `tools` is {name: JSON schema of the arguments}.

        At least one call and at most `most`; with `text` there may be text before the first, or text alone. With `bare`
        such an answer may also be one call without tags, if it begins so; else that is text.
        """
        if not tools:
            raise UserError("tool calls need at least one tool")
        asked = {"form": asdict(form), "tools": tools, "most": most, "text": text, "bare": bare}
        return cls("tool_calls", json.dumps(asked, ensure_ascii=False))


_GRAMMARS = {
    "json_schema": "JSON schema", "regex": "regular expression", "choice": "list of choices", "lark": "grammar",
    "tool_calls": "list of tools",
}  # fmt: skip


@dataclass(frozen=True)
class Pooling:
    """How the hidden states of a text become one vector (pooling.py): of its last token, or the mean of all."""

    kind: str = "last"
    normalize: bool = True  # to length 1

    def __post_init__(self) -> None:
        if self.kind not in ("last", "mean"):
            raise UserError(f"pooling is {self.kind!r}", 'it must be "last" or "mean"')
        if not isinstance(self.normalize, bool):
            raise UserError(f"normalize is {self.normalize!r}", "it must be True or False")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose the next token, and when to stop. Raises UserError for a value out of its range.

    | field                | meaning                                                                                 |
    |----------------------|-----------------------------------------------------------------------------------------|
    | `max_tokens`         | most new tokens; None = what fits the context; 0 = none, with `prompt_logprobs` or      |
    |                      | `pooling`                                                                               |
    | `temperature`        | logits are divided by it; 0 = always the most likely token                              |
    | `top_k`              | only the k most likely tokens; 0 = all                                                  |
    | `top_p`              | the smallest set of most likely tokens that holds this much probability; 1 = all        |
    | `min_p`              | only tokens at least this likely relative to the most likely one; 0 = all               |
    | `presence_penalty`   | subtracted from the logit of each token that was already generated                      |
    | `frequency_penalty`  | subtracted once for each time it was generated                                          |
    | `repetition_penalty` | logits of tokens in prompt or answer are divided by it if positive, else multiplied     |
    | `logit_bias`         | {token id: added to its logit}                                                          |
    | `n`                  | answers per prompt                                                                      |
    | `seed`               | same seed, same answer, whatever else runs; None = a new one each time                  |
    | `stop`               | strings that end the answer; they are not part of it                                    |
    | `stop_before`        | stop strings count only up to this text; "" = everywhere                                |
    | `stop_token_ids`     | tokens that end the answer, beside the tokenizer's own                                  |
    | `ignore_eos`         | go on after an end-of-text token (for benchmarks)                                       |
    | `logprobs`           | None = off; k = log-probability of each chosen token and of the k most likely ones      |
    | `prompt_logprobs`    | None = off; k = the same of every token of the prompt, given those before it            |
    | `pooling`            | None = off; a `Pooling`: a vector of the prompt, and no answer                          |
    | `skip_special`       | special tokens are not shown in the text                                                |
    | `grammar`            | the form that the answer keeps, a `Grammar`; None = any                                 |
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] | list[str] | str = ()
    stop_before: str = ""
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    pooling: Pooling | None = None
    skip_special: bool = True
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name, kinds, words in _KINDS:
            expect(name, getattr(self, name), kinds, words)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            whole = name in _WHOLE
            expect(name, value, int if whole else (int, float), "a whole number" if whole else "a number")
            if not low <= value <= high:
                span = f"from {low} to {high}" if high < _HUGE else f"at least {low}"
                raise UserError(f"{name} is {value}", f"it must be {span}")
        if self.max_tokens == 0 and self.prompt_logprobs is None and self.pooling is None:
            raise UserError("max_tokens is 0", "then only prompt_logprobs or pooling leave something to do")
        if self.pooling is not None:
            for name, only in (("max_tokens", 0), ("n", 1), ("prompt_logprobs", None), ("grammar", None)):
                if getattr(self, name) != only:
                    raise UserError(f"{name} is {getattr(self, name)} beside pooling", f"it must be {only}")
        if self.top_p == 0 or self.repetition_penalty == 0:
            name = "top_p" if self.top_p == 0 else "repetition_penalty"
            raise UserError(f"{name} is 0", "it must be greater than 0")
        for text in stop:
            if not isinstance(text, str) or not text:
                raise UserError(f"a stop string is {text!r}", "each must be a string of at least one character")
        for token in self.stop_token_ids:
            expect("a stop token", token, int, "a token id")
        for token, bias in self.logit_bias.items():
            if type(token) is not int or not isinstance(bias, (int, float)) or not abs(bias) <= 100:
                raise UserError(f"logit_bias has {token!r}: {bias!r}", "it maps token ids to numbers from -100 to 100")

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def changes_logits(self) -> bool:
        """True when the logits depend on the sequence's own tokens, a bias or a grammar, not on the model alone."""
        return bool(
            self.logit_bias
            or self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1.0
            or self.grammar
        )

    @property
    def reads_logits(self) -> bool:
        """False when the largest one is all that is needed."""
        return not self.greedy or self.changes_logits or self.logprobs is not None


_LISTS = (list, tuple, set, frozenset)
_KINDS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("stop", (str, *_LISTS), "a string, or a list of strings"),
    ("stop_before", (str,), "a string"),
    ("stop_token_ids", _LISTS, "a list of token ids"),
    ("logit_bias", (Mapping,), "a mapping of token ids to numbers from -100 to 100"),
    ("ignore_eos", (bool,), "True or False"),
    ("skip_special", (bool,), "True or False"),
    ("grammar", (Grammar, type(None)), "a Grammar, or None"),
)
_HUGE = 1 << 62
_WHOLE = {"max_tokens", "top_k", "n", "seed", "logprobs", "prompt_logprobs"}
_OPTIONAL = {"max_tokens", "seed", "logprobs", "prompt_logprobs"}
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 0, _HUGE),
    ("temperature", 0, 100),
    ("top_k", 0, _HUGE),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("repetition_penalty", 0, 100),
    ("n", 1, 1024),
    ("seed", -(1 << 63), (1 << 63) - 1),
    ("logprobs", 0, 1024),
    ("prompt_logprobs", 0, 1024),
)


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of a token, chosen or given, under the model itself, before temperature, penalties and filters.

    `rank` is 0 for the most likely token; `top` holds (token id, log-probability), most likely first.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """What one step added to one answer. `text` may be empty while a character or a stop string is incomplete.

    The first one of an answer brings the scores of the prompt, the only one of an embedding its vector.
    """

    request_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: str | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    embedding: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Output:
    """One whole answer. `finish_reason`: "stop", "length", "cancelled", or "error" (the model gave NaN)."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] | None
    prompt_tokens: int
    index: int
    request_id: str
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None  # from the second token on: the first follows nothing
    embedding: tuple[float, ...] | None = None  # [D], float32


@dataclass(eq=False)
class Sequence:
    """One answer in the making. The scheduler owns `arrival`, `computed`, `table` and `contents`; the engine the rest.

    `tokens` is prompt plus answer. Keys and values of `tokens[:computed]` are in the cache, in the blocks of `table`.
    A sequence whose `computed` is `len(tokens) - 1` decodes; with less it is being read in (or read in again after a
    preemption). Nothing else tells the two apart. `drafts` are guesses behind `tokens`, checked in the next step and
    then gone (speculative.py).
    """

    request: Request
    index: int
    tokens: list[int]
    max_length: int
    text: TextStream
    generator: torch.Generator | None = None
    matcher: Matcher | None = None  # of the grammar; has read what was generated
    arrival: int = 0
    computed: int = 0
    drafts: list[int] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)  # content numbers of the full blocks of `table`
    counts: dict[int, int] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    @property
    def root(self) -> int:
        """Content number of the beginning: what is computed under an adapter is found under it alone."""
        return -self.request.adapter.number if self.request.adapter is not None else 0

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.request.prompt_ids) :]

    @property
    def unscored(self) -> bool:
        """Whether rows of the prompt are still to be scored: the first answer of a request does it for all."""
        wanted = self.sampling.prompt_logprobs is not None and self.index == 0
        return wanted and len(self.request.scores) < len(self.request.prompt_ids) - 1

    @property
    def reads_all(self) -> bool:
        """Whether every row of the prompt is wanted, so that none can be left out because its block is known."""
        pooling = self.sampling.pooling
        return self.unscored or (pooling is not None and pooling.kind == "mean")

    def output(self) -> Output:
        assert self.finish_reason is not None, "the answer is not finished"
        return Output(
            text=self.text.text,
            token_ids=tuple(self.generated),
            finish_reason=self.finish_reason,
            logprobs=tuple(self.logprobs) if self.sampling.logprobs is not None else None,
            prompt_tokens=len(self.request.prompt_ids),
            index=self.index,
            request_id=self.request.id,
            prompt_logprobs=self.request.scores if self.sampling.prompt_logprobs is not None else None,
            embedding=self.request.embedding,
        )


@dataclass(eq=False)
class Request:
    """A prompt that was submitted. `on_delta` is called in the thread that steps the engine.

    Of those that wait, the one with the lowest `priority` begins first (scheduler.py).
    """

    id: str
    prompt_ids: list[int]
    sampling: Sampling
    on_delta: Callable[[Delta], Any] | None = None
    priority: int = 0
    adapter: LoadedAdapter | None = None
    sequences: list[Sequence] = field(default_factory=list)
    scores: tuple[TokenLogprob, ...] = ()  # of the prompt's tokens from the second on, where they are asked for
    pool: Pool | None = None  # where its vector is asked for
    embedding: tuple[float, ...] | None = None  # when it is there

    @property
    def finished(self) -> bool:
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    def outputs(self) -> list[Output]:
        """The answers in order of `index`. Only once `finished`."""
        return [sequence.output() for sequence in self.sequences]

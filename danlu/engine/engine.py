"""The engine: requests in from any thread, tokens out of one loop.

    submit --> inbox --> scheduler --> runner --> sampler --> detokeniser --> Delta --> stream, callback, Output
                             ^                                    |
                             +----------- one step --------------+

Continuous batching falls out of the loop: after every step finished sequences leave and waiting ones join, so a short
answer never waits for a long one (Orca, Yu et al. 2022).

Threads: `step` (and what drives it: `generate`, `stream`) belongs to one thread at a time. `submit`, `cancel`, `stats`
and `has_work` may be called from any thread at any time: a request waits in an inbox that the next step empties, and a
cancellation is done at once, or at the end of the step that is running. One lock is held for a whole step; nobody but
that step waits for it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from secrets import randbits
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from danlu.core.artifact import artifact_id_of
from danlu.core.errors import DanluError, UserError, expect, shown
from danlu.engine.adapters import Adapters
from danlu.engine.batch import Logits, Wanted, flatten
from danlu.engine.compiled import CompiledRunner, compile_model
from danlu.engine.cost import PromptShare
from danlu.engine.detokenize import TextStream
from danlu.engine.kv_cache import CacheShape, KVCache, plan_blocks
from danlu.engine.parallel import ParallelRunner
from danlu.engine.pooling import Pool
from danlu.engine.request import Delta, Output, Pooling, Request, Sampling, Sequence, TokenLogprob
from danlu.engine.runner import Runner
from danlu.engine.sampling import sample, token_logprobs
from danlu.engine.scheduler import Scheduler, Step
from danlu.engine.speculative import DraftModel, Lookup, Speculator
from danlu.engine.structured import Grammars, Matcher
from danlu.kernels.decoder import PAGE, Decoder
from danlu.model.quantized import cast_rest_, float_dtype, is_quantized

if TYPE_CHECKING:
    from danlu.model.hub import Checkpoint
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

Source = str | Path | tuple["Transformer", "Tokenizer | None"]
Prompt = str | list[int] | list[dict[str, Any]]
PROMPTS = "a string, a list of token ids, or a list of chat messages"
_LISTS = (list, tuple, range)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KV_DTYPES = DTYPES | {"int8": torch.int8}
RATE_SECONDS = 5.0  # tokens per second are counted over this long


@dataclass(frozen=True)
class Stats:
    """A moment of the engine.

    Counters (`*_tokens`, `*_hits`, `steps`, `step_seconds`, `preemptions`, `finished`) only grow.
    """

    running: int
    waiting: int
    kv_used: float  # share of the cache's blocks, 0 to 1
    kv_blocks: int
    kv_blocks_used: int
    prompt_tokens: int
    generated_tokens: int
    steps: int
    step_seconds: float  # all steps together
    last_step_seconds: float
    tokens_per_second: float  # generated, over the last RATE_SECONDS
    preemptions: int
    prefix_tokens: int  # tokens of sequences that began, and of these the ones found in the cache
    prefix_hits: int
    draft_tokens: int  # guesses that were checked, and of these the right ones
    draft_hits: int
    finished: dict[str, int]  # answers by finish reason


class Engine:
    """A model ready to answer many requests at once.

    `source` is a path (a Hugging Face directory or a .gguf file), the id or name of a model in the store, or a pair
    (model, tokenizer or None). Without a tokenizer prompts are token ids and texts stay empty.

    | argument           | meaning                                                                         |
    |--------------------|---------------------------------------------------------------------------------|
    | `max_batch_tokens` | most tokens in one step. None = 512 on a CPU, 2048 on a GPU (not tuned)         |
    | `stall`            | how many times as long as undisturbed a step of answers may take while a prompt |
    |                    | is read beside them (cost.py); None = as long as `max_batch_tokens` takes       |
    | `max_sequences`    | most answers in the making at once                                              |
    | `max_context`      | most tokens of prompt and answer; None = what the model was made for            |
    | `kv_bytes`         | memory for the KV cache; None = by need, at most a quarter of what is free      |
    | `kv_dtype`         | "float32", "bfloat16", "int8" (compiled kernels only): what keys and values are |
    |                    | kept in; None = the dtype of the model, or bfloat16 where the compiled kernels  |
    |                    | compute a quantised one. On a GPU it is `dtype`, and nothing else is taken      |
    | `block_size`       | tokens per block of the cache                                                   |
    | `prefix_cache`     | prompts that begin like earlier ones are not computed again                     |
    | `speculate`        | None, "lookup" (guess from the text so far), or a smaller model that guesses:   |
    |                    | a source, with the same vocabulary                                              |
    | `dtype`            | "float32", "bfloat16", "float16"; None = bfloat16 on a GPU, float32 on a CPU    |
    | `device`           | None = the accelerator if one answers, else the CPU                             |
    | `tensor_parallel`  | so many processes, with a GPU each or sharing the CPU, hold a slice of the      |
    |                    | model each (parallel.py); `kv_bytes` is for all of them together                |
    | `adapters`         | {name: path or id} of LoRA adapters that requests may name                      |

    A model given as a pair is used as it is, where it is, unless `dtype` or `device` are given. Of any other, `model`
    has the shape, and no numbers where the compiled kernels hold them. An engine with other processes is closed at the
    end, by `close` or as a context manager; if it is not, they end with this process.
    """

    def __init__(
        self,
        source: Source,
        *,
        max_batch_tokens: int | None = None,
        stall: float | None = 2.0,
        max_sequences: int = 32,
        max_context: int | None = None,
        kv_bytes: int | None = None,
        kv_dtype: str | None = None,
        block_size: int = 16,
        prefix_cache: bool = True,
        speculate: Source | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        tensor_parallel: int = 1,
        adapters: Mapping[str, str | Path] | None = None,
    ) -> None:
        number, or_none = (int,), (int, type(None))
        for name, value, kinds in (
            ("max_batch_tokens", max_batch_tokens, or_none),
            ("max_sequences", max_sequences, number),
            ("max_context", max_context, or_none),
            ("kv_bytes", kv_bytes, or_none),
            ("block_size", block_size, number),
            ("tensor_parallel", tensor_parallel, number),
        ):
            words = "a whole number of at least 1"
            expect(name, value, kinds, words)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}", f"it must be {words}")
        expect("prefix_cache", prefix_cache, bool, "True or False")
        expect("adapters", adapters, (Mapping, type(None)), "a mapping of names to paths or ids")
        expect("kv_dtype", kv_dtype, (str, type(None)), "one of: " + ", ".join(KV_DTYPES))
        if kv_dtype not in (None, *KV_DTYPES):
            raise UserError(f'kv_dtype is "{kv_dtype}"', "it must be one of: " + ", ".join(KV_DTYPES))
        expect("stall", stall, (int, float, type(None)), "a number of at least 1, or None")
        if stall is not None and not stall >= 1:
            raise UserError(f"stall is {stall}", "it must be a number of at least 1, or None")
        model, self.tokenizer, place, checkpoint = _load(source, dtype, device, keep_on_cpu=tensor_parallel > 1)
        self.artifact_id = None if isinstance(source, tuple) else artifact_id_of(source)
        self._parallel = ParallelRunner(model, tensor_parallel, place) if tensor_parallel > 1 else None
        self.model = self._parallel.model if self._parallel is not None else model
        self.device = place if checkpoint is not None else next(self.model.parameters()).device
        self.dtype = float_dtype(self.model)
        self.config, config = model.config, self.model.config  # of the whole model, and of what this process has of it
        self.max_context = min(max_context or config.max_position, config.max_position)
        self.max_sequences = max_sequences
        self.stop_ids = frozenset(config.eos_ids) | (self.tokenizer.stop_ids if self.tokenizer else frozenset())
        if max_batch_tokens is None:
            max_batch_tokens = 512 if self.device.type == "cpu" else 2048
        self.max_batch_tokens = max_batch_tokens
        decoder = self._compile(self.model, checkpoint, block_size, KV_DTYPES[kv_dtype] if kv_dtype else None)
        kept = decoder.shape.kv_dtype if decoder is not None else KV_DTYPES[kv_dtype] if kv_dtype else self.dtype
        if decoder is None and kept == torch.int8:
            raise UserError("keys and values in int8 need the compiled kernels, which cannot compute this model here")
        if self.device.type == "cuda" and kept != self.dtype:
            raise UserError(
                f'kv_dtype is "{kv_dtype}" and the model computes in {self.dtype}',
                "on a GPU they must agree: leave kv_dtype out, or give dtype as well",
            )
        shape = CacheShape(config.n_layers, config.n_kv_heads, config.head_dim, kept)
        sharers = tensor_parallel if self.device.type == "cpu" else 1
        n_blocks = plan_blocks(
            shape,
            block_size,
            max_context=self.max_context,
            max_sequences=max_sequences,
            kv_bytes=None if kv_bytes is None else kv_bytes // tensor_parallel,
            free_bytes=_free_bytes(self.device) // sharers,
        )
        self.cache = KVCache(shape, n_blocks, block_size, self.device)
        self.share = PromptShare(stall) if stall is not None else None
        self.scheduler = Scheduler(
            self.cache,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            prefix_cache=prefix_cache,
            share=self.share,
            ahead=self.device.type == "cuda",
        )
        if self._parallel is not None:
            self._parallel.use(self.cache)
        self.runner = self._parallel or _runner(decoder, self.model, self.cache, self.device, checkpoint)
        if decoder is not None and not isinstance(source, tuple):
            self.model.to("meta")  # the kernels have a copy of their own; what the caller gave stays as it is
        self.adapters = Adapters(self.config, self.runner)
        for adapter, path in (adapters or {}).items():
            self.load_adapter(adapter, path)
        self.speculator = self._make_speculator(speculate) if speculate is not None else None
        self._grammars = Grammars(self.tokenizer, config.vocab_size, self.stop_ids) if self.tokenizer else None
        self._lock = threading.RLock()  # held for a whole step
        self._inbox: deque[tuple[str, Request | str]] = deque()  # ("submit", request) or ("cancel", request id)
        self._requests: dict[str, Request] = {}
        self._numbers = itertools.count()
        self._made: list[tuple[Request, Delta]] = []  # for the callers of this step, or of the next one
        self._prompt_tokens = self._generated_tokens = self._steps = 0
        self._step_seconds = self._last_step_seconds = 0.0
        self._finished: Counter[str] = Counter()
        self._recent: deque[tuple[float, int]] = deque()  # (when, tokens) of the last steps

    def _compile(
        self, model: Transformer, checkpoint: Checkpoint | None, block_size: int, kv_dtype: torch.dtype | None
    ) -> Decoder | None:
        """The model in the compiled kernels, or None where they cannot compute it."""
        if kv_dtype is None:
            kv_dtype = torch.bfloat16 if is_quantized(model) else float_dtype(model)
        if self._parallel is not None or self.device.type != "cpu" or block_size != PAGE or kv_dtype == torch.float16:
            return None
        return compile_model(
            model,
            max_tokens=self.max_batch_tokens,
            max_context=self.max_context,
            kv_dtype=kv_dtype,
            lend=checkpoint.lent if checkpoint is not None else None,
        )

    def _make_speculator(self, source: Source) -> Speculator:
        if source == "lookup":
            return Speculator(Lookup(), self.scheduler)
        model, tokenizer, _, checkpoint = _load(source, None, self.device)
        config = model.config
        if config.vocab_size != self.model.config.vocab_size or not _same_words(tokenizer, self.tokenizer):
            raise UserError("the draft model has another vocabulary", "it must share the tokenizer of the model")
        if config.max_position < self.max_context:
            raise UserError(
                f"the draft model reads {config.max_position} tokens and the engine {self.max_context}",
                f"give max_context={config.max_position}",
            )
        decoder = self._compile(model, checkpoint, self.cache.block_size, None)
        kept = decoder.shape.kv_dtype if decoder is not None else float_dtype(model)
        shape = CacheShape(config.n_layers, config.n_kv_heads, config.head_dim, kept)
        cache = KVCache(shape, self.cache.n_blocks, self.cache.block_size, self.device)
        runner = _runner(decoder, model, cache, self.device, checkpoint)
        if decoder is not None and not isinstance(source, tuple):
            model.to("meta")
        return Speculator(DraftModel(runner, self.max_batch_tokens), self.scheduler)

    @property
    def capacity(self) -> int:
        """How many tokens the KV cache holds."""
        return self.cache.capacity

    def close(self) -> None:
        """End the other processes of a tensor-parallel engine; others have nothing to end. May be called twice."""
        if self._parallel is not None:
            self._parallel.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the comfortable door -------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | ListLike[Prompt],
        sampling: Sampling | ListLike[Sampling] | None = None,
        adapter: str | ListLike[str | None] | None = None,
    ) -> Iterator[Output]:
        """Answer all prompts in one batch; yield the answers in the order of the prompts, `n` for each.

        A prompt is a string, a list of token ids, or a list of chat messages ({"role", "content"}). One Sampling and
        one adapter for all, or one for each. All prompts are checked before this returns (UserError); then nothing is
        computed until the first answer is asked for. Raises DanluError when the model gives NaN.
        """
        many = _as_prompts(prompts)
        one = sampling is None or isinstance(sampling, Sampling)
        if not one:
            expect("sampling", sampling, (list, tuple), "a Sampling, or a list with one for each prompt")
        settings: ListLike[Sampling] = [sampling or Sampling()] * len(many) if one else sampling  # type: ignore
        if len(settings) != len(many):
            raise UserError(f"there are {len(many)} prompts and {len(settings)} samplings", "give one, or one for each")
        if adapter is not None:
            expect("adapter", adapter, (str, list, tuple), "a name, or a list with one for each prompt")
        names = [adapter] * len(many) if adapter is None or isinstance(adapter, str) else adapter
        if len(names) != len(many):
            raise UserError(f"there are {len(many)} prompts and {len(names)} adapters", "give one, or one for each")
        requests = [
            self._request(self.encode(p), s, None, name) for p, s, name in zip(many, settings, names, strict=True)
        ]
        return self._drive(requests)

    def score(
        self,
        texts: Prompt | ListLike[Prompt],
        top: int = 0,
        adapter: str | ListLike[str | None] | None = None,
    ) -> Iterator[tuple[TokenLogprob, ...]]:
        """For each text the log-probability of every token but the first, and of the `top` most likely ones there."""
        for out in self.generate(texts, Sampling(max_tokens=0, prompt_logprobs=top), adapter):
            assert out.prompt_logprobs is not None
            yield out.prompt_logprobs

    def embed(
        self,
        texts: Prompt | ListLike[Prompt],
        pooling: str = "last",
        *,
        normalize: bool = True,
        adapter: str | ListLike[str | None] | None = None,
    ) -> Tensor:
        """One vector for each text: float32 [N, D] on the CPU.

        From the hidden states after the last norm: that of the last token, or with pooling "mean" the mean of all; then
        brought to length 1 unless `normalize` is False. A text is read as `generate` reads a prompt: nothing is put
        behind it. Raises UserError before anything is computed, DanluError when the model gives NaN.
        """
        wanted = Sampling(max_tokens=0, pooling=Pooling(pooling, normalize))
        vectors = [out.embedding for out in self.generate(texts, wanted, adapter)]
        return torch.tensor(vectors, dtype=torch.float32).view(len(vectors), self.model.config.hidden_size)

    def stream(self, prompt: Prompt, sampling: Sampling | None = None, adapter: str | None = None) -> Iterator[Delta]:
        """Answer one prompt; yield each piece as it is made. Closing the iterator cancels the request."""
        request = self._request(self.encode(prompt), sampling or Sampling(), None, adapter)
        return self._drive_stream(request)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; chat messages through the model's template, ready for its answer.

        An empty string becomes the model's start token. Raises UserError when the model lacks what it takes.
        """
        expect("a prompt", prompt, (str, *_LISTS), PROMPTS)
        if not isinstance(prompt, str) and all(type(item) is int for item in prompt):
            return list(prompt)  # type: ignore[arg-type]
        if not isinstance(prompt, str) and not all(isinstance(item, Mapping) for item in prompt):
            raise UserError(f"a prompt is {shown(prompt)}", f"it must be {PROMPTS}")
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer", "give prompts as lists of token ids")
        if not isinstance(prompt, str):
            return self.tokenizer.encode_chat(prompt, add_generation_prompt=True)  # type: ignore[arg-type]
        ids = [*self.tokenizer.prefix_ids, *self.tokenizer.encode(prompt)]
        if not ids:
            start = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.eos_id
            if start is None:
                raise UserError("the prompt is empty and this model has no start token", "give at least one character")
            ids = [start]
        return ids

    def load_adapter(self, name: str, source: str | Path) -> None:
        """Let requests name a LoRA adapter: a PEFT directory, or the id or name of an adapter in the store.

        From any thread; steps go on meanwhile. Raises UserError, and nothing changes, when the name is taken, or the
        adapter is damaged or made for another model.
        """
        self.adapters.load(name, source)

    def unload_adapter(self, name: str) -> None:
        """Take a name away, at once. Requests that have it finish with it; its memory goes with the last of them.

        From any thread. Raises UserError when there is no such adapter.
        """
        self.adapters.unload(name)

    # --- the loop's door ------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt_ids: ListLike[int],
        sampling: Sampling,
        on_delta: Callable[[Delta], Any] | None = None,
        *,
        priority: int = 0,
        adapter: str | None = None,
    ) -> Request:
        """Queue a prompt. From any thread. Raises UserError when it can never be answered.

        `on_delta` is called for every piece, in the thread that steps; it must not raise. A request of a lower
        `priority` begins earlier, and gives way later when the cache is full.
        """
        expect("a prompt", prompt_ids, _LISTS, "a list of token ids")
        expect("priority", priority, int, "a whole number")
        request = self._request(list(prompt_ids), sampling, on_delta, adapter)
        request.priority = priority
        self._inbox.append(("submit", request))
        return request

    def cancel(self, request_id: str) -> None:
        """End a request: its slot and blocks are free when no step is under way, else right after that step.

        From any thread. An unknown or finished request is no error: it may just have finished.
        """
        expect("a request", request_id, str, "the id of one")
        self._inbox.append(("cancel", request_id))
        self._settle()

    @property
    def has_work(self) -> bool:
        return bool(self._inbox or self.scheduler.running or self.scheduler.waiting or self._made)

    def step(self) -> list[Delta]:
        """Advance every running sequence by one batch; return what was made. Empty when there is no work."""
        with self._lock:
            self._read_inbox()
            began = time.perf_counter()
            if self.speculator is not None:
                self.speculator.plan()
            planned = time.perf_counter()
            plan = self.scheduler.schedule()
            if plan:
                batch, wanted = flatten(plan)
                batch.goes_on = not batch.values and self._goes_on(plan)
                logits, hidden = self.runner.run(batch)
                self.scheduler.advance(plan)
                self._score(logits, wanted)
                self._pool(hidden, wanted)
                n_made = self._sample(logits, wanted)
                seconds = time.perf_counter() - planned
                if self.share is not None:
                    self.share.observe(plan, seconds)
                if self.speculator is not None:
                    self.speculator.learn(plan, seconds)
                self._count(n_made, time.perf_counter() - began)
            made, self._made = self._made, []
            for request, delta in made:
                if request.on_delta is not None:
                    request.on_delta(delta)
        self._settle()  # what was cancelled while the step ran
        return [delta for _, delta in made]

    @property
    def stats(self) -> Stats:
        now = time.monotonic()
        recent = [(when, n) for when, n in list(self._recent) if now - when <= RATE_SECONDS]
        submitted = sum(len(item.sequences) for kind, item in list(self._inbox) if isinstance(item, Request))
        return Stats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting) + submitted,
            kv_used=self.cache.n_used / self.cache.n_blocks,
            kv_blocks=self.cache.n_blocks,
            kv_blocks_used=self.cache.n_used,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            steps=self._steps,
            step_seconds=self._step_seconds,
            last_step_seconds=self._last_step_seconds,
            tokens_per_second=sum(n for _, n in recent) / RATE_SECONDS,
            preemptions=self.scheduler.n_preemptions,
            prefix_tokens=self.scheduler.prefix_tokens,
            prefix_hits=self.scheduler.prefix_hits,
            draft_tokens=self.speculator.checked if self.speculator is not None else 0,
            draft_hits=self.speculator.right if self.speculator is not None else 0,
            finished=dict(self._finished),
        )

    # --- from a prompt to sequences ---------------------------------------------------------------------------------

    def _request(
        self,
        prompt_ids: list[int],
        sampling: Sampling,
        on_delta: Callable[[Delta], Any] | None,
        adapter: str | None = None,
    ) -> Request:
        """Check everything that could go wrong later, and make the sequences."""
        vocabulary = self.model.config.vocab_size
        expect("sampling", sampling, Sampling, "a Sampling")
        if not all(type(token) is int for token in prompt_ids):
            raise UserError(f"a prompt is {shown(prompt_ids)}", "it must be a list of token ids")
        if not prompt_ids:
            raise UserError("the prompt is empty", "give at least one token")
        for token in (min(prompt_ids), max(prompt_ids)):
            if not 0 <= token < vocabulary:
                raise UserError(f"token id {token} is outside the vocabulary of {vocabulary}", "check the tokenizer")
        for token in sampling.logit_bias:
            if not 0 <= token < vocabulary:
                raise UserError(f"logit_bias names token {token}, outside the vocabulary of {vocabulary}")
        if sampling.stop and self.tokenizer is None:
            raise UserError("stop strings need a tokenizer and this model has none", "use stop_token_ids")
        loaded = self.adapters.find(adapter) if adapter is not None else None
        request = Request(f"request-{next(self._numbers)}", prompt_ids, sampling, on_delta, adapter=loaded)
        request.pool = Pool(sampling.pooling) if sampling.pooling is not None else None
        max_length = self._max_length(request)
        matcher = self.prepare(sampling)
        seed = sampling.seed if sampling.seed is not None else randbits(63)
        for index in range(sampling.n):
            text = TextStream(
                self.tokenizer,
                tuple(sampling.stop),
                stop_before=sampling.stop_before,
                skip_special=sampling.skip_special,
            )
            generator = None if sampling.greedy else torch.Generator().manual_seed(seed + index)
            own = matcher.copy() if matcher is not None else None
            request.sequences.append(Sequence(request, index, list(prompt_ids), max_length, text, generator, own))
        return request

    def prepare(self, sampling: Sampling) -> Matcher | None:
        """Compile the grammar of a sampling, if it has one; a second time costs nothing. From any thread.

        May take seconds, so a server calls it in a thread before `submit`. Raises UserError when it is refused.
        """
        expect("sampling", sampling, Sampling, "a Sampling")
        if sampling.grammar is None:
            return None
        if self._grammars is None:
            raise UserError("a grammar needs a tokenizer and this model has none")
        return self._grammars.compile(sampling.grammar)

    def _max_length(self, request: Request) -> int:
        """Tokens of prompt and answer together at most: what was asked for, cut to the context.

        Raises UserError when the prompt leaves no room, or when the cache could never hold the request.
        """
        n, wanted = len(request.prompt_ids), request.sampling.max_tokens
        if n > self.max_context or (n == self.max_context and wanted != 0):
            raise UserError(
                f"the prompt has {n} tokens and the context of this model is {self.max_context}",
                "shorten the prompt; the answer needs at least one token",
            )
        longest = min(self.max_context, n + wanted if wanted is not None else self.max_context)
        if self.scheduler.fits(longest if wanted != 0 else n + 1):  # without an answer the last token is read too
            return longest
        capacity = self.cache.capacity
        if wanted is None and self.scheduler.fits(n + 1):
            return capacity + 1
        needed = longest if wanted is not None else n + 1
        raise UserError(
            f"{request.id} needs {needed} tokens in the KV cache, which holds {capacity}",
            "raise kv_bytes, shorten the prompt or lower max_tokens",
        )

    # --- inside a step ------------------------------------------------------------------------------------------------

    def _goes_on(self, plan: Step) -> bool:
        """Whether nothing is known that would make the next step one of other sequences."""
        return not (self._inbox or self.scheduler.waiting) and all(
            len(sequence.tokens) + 1 < sequence.max_length for sequence, _ in plan
        )

    def _settle(self) -> None:
        """Empty the inbox now, unless a step is running: then that step does it at its end."""
        while self._inbox and self._lock.acquire(blocking=False):
            try:
                self._read_inbox()
            finally:
                self._lock.release()

    def _read_inbox(self) -> None:
        while self._inbox:
            kind, item = self._inbox.popleft()
            if isinstance(item, Request):
                self._requests[item.id] = item
                for sequence in item.sequences:
                    self.scheduler.add(sequence)
                self._prompt_tokens += len(item.prompt_ids)
            elif (request := self._requests.get(item)) is not None:
                assert kind == "cancel"
                for sequence in request.sequences:
                    if sequence.finish_reason is None:
                        self._finish(sequence, "cancelled", "", (), None)

    def _score(self, logits: Logits, wanted: list[Wanted]) -> None:
        """Log-probabilities of the prompts' own tokens, where they are asked for."""
        for one in wanted:
            if one.n_scored:
                request = one.sequence.request
                done = len(request.scores)
                targets = request.prompt_ids[done + 1 : done + 1 + one.n_scored]
                rows = logits.full[one.row : one.row + one.n_scored]
                request.scores += tuple(token_logprobs(rows, targets, one.sequence.sampling.prompt_logprobs or 0))

    def _pool(self, hidden: Tensor, wanted: list[Wanted]) -> None:
        """Add hidden states [H, D] to the vectors in the making. What was read to its end is finished."""
        for one in wanted:
            if one.n_pooled:
                sequence, request = one.sequence, one.sequence.request
                assert request.pool is not None
                request.pool.add(hidden[one.row : one.row + one.n_pooled])
                if sequence.computed == len(sequence.tokens):
                    request.embedding = request.pool.vector()
                    self._finish(sequence, "stop" if request.embedding is not None else "error", "", (), None)

    def _sample(self, logits: Logits, wanted: list[Wanted]) -> int:
        """Give each sequence its token, and one more for every draft that was right.

        Returns how many tokens were made.
        """
        alive = []  # a sequence and the row of its last known token
        for one in wanted:
            if one.n_sampled and len(one.sequence.tokens) == one.sequence.max_length:
                unsound = any(isnan(score.logprob) for score in one.sequence.request.scores)
                self._finish(one.sequence, "error" if unsound else "length", "", (), None)  # only scores were asked for
            elif one.n_sampled:
                alive.append((one.sequence, one.row + one.n_scored))
        depth = made = 0
        while alive:
            picked = logits.pick([row + depth for _, row in alive])
            tokens, logprobs, sound = sample(picked, [sequence for sequence, _ in alive])
            agreed = []
            for (sequence, row), token, logprob, ok in zip(alive, tokens, logprobs, sound, strict=True):
                self._accept(sequence, token, logprob, ok)
                if token in sequence.drafts[depth : depth + 1] and sequence.finish_reason is None:
                    sequence.computed += 1  # the draft's keys and values are in the cache already
                    agreed.append((sequence, row))
            made += len(alive)
            alive, depth = agreed, depth + 1
        return made

    def _accept(self, sequence: Sequence, token: int, logprob: TokenLogprob | None, sound: bool) -> None:
        """Append a sampled token, and decide whether the answer ends with it."""
        if not sound:
            self._finish(sequence, "error", "", (), None)
            return
        sampling = sequence.sampling
        sequence.tokens.append(token)
        sequence.counts[token] = sequence.counts.get(token, 0) + 1
        if logprob is not None:
            sequence.logprobs.append(logprob)
        matcher = sequence.matcher
        if matcher is not None and not matcher.accept(token):
            self._finish(sequence, "error", "", (token,), logprob)  # its parser gave up
            return
        if token in sampling.stop_token_ids or (token in self.stop_ids and not sampling.ignore_eos):
            self._finish(sequence, "stop", "", (token,), logprob)
            return
        text = sequence.text.push(token)
        if sequence.text.stopped or (matcher is not None and matcher.complete):
            self._finish(sequence, "stop", text, (token,), logprob)
        elif len(sequence.tokens) >= sequence.max_length:
            self._finish(sequence, "length", text, (token,), logprob)
        else:
            self._emit(sequence, text, (token,), logprob)

    def _finish(
        self, sequence: Sequence, reason: str, text: str, tokens: tuple[int, ...], logprob: TokenLogprob | None
    ) -> None:
        self.scheduler.remove(sequence)
        text += sequence.text.finish()
        sequence.finish_reason = "stop" if reason == "length" and sequence.text.stopped else reason
        self._finished[sequence.finish_reason] += 1
        if sequence.request.finished:
            del self._requests[sequence.request.id]
        self._emit(sequence, text, tokens, logprob)

    def _emit(self, sequence: Sequence, text: str, tokens: tuple[int, ...], logprob: TokenLogprob | None) -> None:
        asked = sequence.sampling.logprobs is not None
        request = sequence.request
        first = len(sequence.tokens) - len(request.prompt_ids) == len(tokens)
        delta = Delta(
            request_id=request.id,
            index=sequence.index,
            text=text,
            token_ids=tokens,
            logprobs=((logprob,) if logprob is not None else ()) if asked else None,
            finish_reason=sequence.finish_reason,
            prompt_logprobs=request.scores if first and sequence.sampling.prompt_logprobs is not None else None,
            embedding=request.embedding,
        )
        self._made.append((request, delta))

    def _count(self, n_made: int, seconds: float) -> None:
        self._generated_tokens += n_made
        self._steps += 1
        self._step_seconds += seconds
        self._last_step_seconds = seconds
        now = time.monotonic()
        self._recent.append((now, n_made))
        while now - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()

    def _drive(self, requests: list[Request]) -> Iterator[Output]:
        self._inbox.extend(("submit", request) for request in requests)
        try:
            for request in requests:
                while not request.finished:
                    self.step()
                _raise_if_unsound(request)
                yield from request.outputs()
        finally:
            for request in requests:
                if not request.finished:
                    self.cancel(request.id)

    def _drive_stream(self, request: Request) -> Iterator[Delta]:
        pieces: deque[Delta] = deque()
        request.on_delta = pieces.append
        self._inbox.append(("submit", request))
        left = request.sampling.n
        try:
            while left:
                while not pieces:
                    self.step()
                delta = pieces.popleft()
                left -= delta.finish_reason is not None
                yield delta
            _raise_if_unsound(request)
        finally:
            if not request.finished:
                self.cancel(request.id)


def _runner(
    decoder: Decoder | None,
    model: Transformer,
    cache: KVCache,
    device: torch.device,
    checkpoint: Checkpoint | None,
) -> Runner | CompiledRunner:
    """The compiled kernels where they can compute this model, else torch, which needs the checkpoint's numbers."""
    if decoder is not None:
        return CompiledRunner(decoder, cache)
    return Runner(checkpoint.load() if checkpoint is not None else model, cache, device)


def _raise_if_unsound(request: Request) -> None:
    broken = [sequence for sequence in request.sequences if sequence.finish_reason == "error"]
    if any(sequence.matcher is not None and sequence.matcher.failure for sequence in broken):
        raise DanluError("the parser of the grammar gave up", "simplify the grammar or schema")
    if broken:
        raise DanluError("the model gave a value that is not a number", "check its weights, or use dtype float32")


def _as_prompts(prompts: Prompt | ListLike[Prompt]) -> list[Prompt]:
    """One prompt or many: a string, a list of ids and a list of messages are one prompt each."""
    expect("a prompt", prompts, (str, *_LISTS), f"{PROMPTS}, or a list of such prompts")
    if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], (int, dict))):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _same_words(one: Tokenizer | None, other: Tokenizer | None) -> bool:
    return one is None or other is None or one is other or one.fingerprint == other.fingerprint


def _load(
    source: Source,
    dtype: str | torch.dtype | None,
    device: str | torch.device | None,
    keep_on_cpu: bool = False,
) -> tuple[Transformer, Tokenizer | None, torch.device, Checkpoint | None]:
    """The model, its tokenizer, and the device to run it on: where the model is, unless it is kept on the CPU.

    A directory that is to run on the CPU is only opened: the numbers of the model are in the checkpoint, the last one.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UserError(f'dtype is "{dtype}"', "it must be one of: " + ", ".join(DTYPES))
        dtype = DTYPES[dtype]
    expect("dtype", dtype, (torch.dtype, type(None)), "one of: " + ", ".join(DTYPES))
    if device is not None:
        device = _device(device)
    checkpoint = None
    if isinstance(source, tuple):
        model, tokenizer = _pair(source)
        device = device or next(model.parameters()).device
    else:
        from danlu.core.device import torch_device
        from danlu.model.hub import Checkpoint, find_model, load, load_tokenizer

        path = find_model(source)
        device = device or torch_device()
        if device.type == "cpu" and not keep_on_cpu and path.is_dir():
            checkpoint = Checkpoint(path)
            model, tokenizer = checkpoint.model, load_tokenizer(path)
        else:
            model, tokenizer = load(path)
        if dtype is None:
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype is not None and is_quantized(model):
        cast_rest_(model, dtype)
        dtype = None
    stays = keep_on_cpu or checkpoint is not None
    model = model.to(device=None if stays else device, dtype=dtype)
    return model.eval(), tokenizer, device, checkpoint


def _pair(source: tuple[Any, ...]) -> tuple[Transformer, Tokenizer | None]:
    """A model and its tokenizer as a person gave them."""
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

    if len(source) != 2:
        raise UserError(f"a model is {len(source)} things in parentheses", "it must be (model, tokenizer or None)")
    expect("the model", source[0], Transformer, "what danlu.load_model gives first")
    expect("the tokenizer", source[1], (Tokenizer, type(None)), "what danlu.load_model gives second")
    return source


def _device(device: object) -> torch.device:
    """A device that answers. Raises UserError for one that is none, or is not there."""
    try:
        return torch.empty(0, device=device).device  # type: ignore[call-overload]
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"device is {shown(device)}: {reason}", "danlu doctor says what there is") from None


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)

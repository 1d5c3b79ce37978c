"""Pieces become OpenAI answers: two endpoints, each whole or as a stream of chunks.

What the endpoints share (ids, times, usage, when a chunk is sent) is in `Answer`; what differs (where the text stands
in the object, the shape of log-probabilities, tool calls) is in its two subclasses. A stream says exactly what the
whole answer says: the texts of the chunks of a choice, joined, are its text, and so it is with the arguments of a call.

Log-probabilities, for one token:

    chat          {"token": "ä¸", "logprob": -0.5, "bytes": [228, 184], "top_logprobs": [...]}
    completions   four lists side by side: tokens, token_logprobs, top_logprobs ({token: logprob}), text_offset

A token need not be whole characters. JSON cannot carry half of one, so `bytes` is the truth in chat, and completions
write such a token as `bytes:\\xe4\\xb8`, as OpenAI does, which also keeps the keys of `top_logprobs` apart.

With `echo` the prompt is a piece like any other, the first of each choice. Then the four lists have an entry for every
token that `usage` counts, the one that ends the answer too; the first of the prompt has no log-probability.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import ClassVar

from pydantic import BaseModel

from danlu.serve.generation import Generation, Piece, ScoredToken, ServedModel
from danlu.serve.protocol import (
    AnswerCall,
    AnswerMessage,
    CallDelta,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatRequest,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    FinishReason,
    FunctionDelta,
    GenerationRequest,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from danlu.serve.tool_reader import CallPiece, CallReader
from danlu.serve.wire import ApiError


class Answer:
    """One answer in the making. `prefix` begins its id."""

    prefix: ClassVar[str]

    def __init__(self, request: GenerationRequest, generation: Generation) -> None:
        self.request, self.generation = request, generation
        self.served: ServedModel = generation.served
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.n_choices = len(generation.prompts) * generation.sampling.n

    # --- what a subclass says ---

    def opening(self) -> list[BaseModel]:
        """Chunks before the first piece."""
        return []

    def chunk(self, piece: Piece) -> BaseModel | None:
        """None: nothing can be said yet."""
        raise NotImplementedError

    def usage_chunk(self, usage: Usage) -> BaseModel:
        raise NotImplementedError

    def whole(self, choices: list[list[Piece]], usage: Usage) -> BaseModel:
        raise NotImplementedError

    # --- shared ---

    async def collect(self) -> BaseModel:
        """The whole answer, when the last choice has finished."""
        choices: list[list[Piece]] = [[] for _ in range(self.n_choices)]
        async for piece in self.generation.pieces():
            choices[piece.choice].append(piece)
        return self.whole(choices, self._usage())

    async def stream(self) -> AsyncIterator[str]:
        """JSON chunks. A piece without text, scores or an end (half a character so far) is not sent."""
        exclude = None if self.request.include_usage else {"usage"}
        for chunk in self.opening():
            yield chunk.model_dump_json(exclude=exclude)
        async for piece in self.generation.pieces():
            if (piece.text or piece.scored or piece.finish) and (made := self.chunk(piece)) is not None:
                yield made.model_dump_json(exclude=exclude)
        if self.request.include_usage:
            yield self.usage_chunk(self._usage()).model_dump_json()

    def _usage(self) -> Usage:
        asked, made = self.generation.prompt_tokens, self.generation.completion_tokens
        return Usage(prompt_tokens=asked, completion_tokens=made, total_tokens=asked + made)

    @property
    def _scores(self) -> bool:
        return self.request.top_logprobs_wanted is not None


class ChatAnswer(Answer):
    prefix = "chatcmpl"

    def __init__(self, request: GenerationRequest, generation: Generation) -> None:
        super().__init__(request, generation)
        assert isinstance(request, ChatRequest)
        self._readers: list[CallReader] = []  # one for each choice, where there may be calls
        if request.callable_tools:
            bare = [tool.function.name for tool in request.callable_tools if request.bare_calls]
            self._readers = [CallReader(text=not request.must_call, bare=bare) for _ in range(self.n_choices)]

    def opening(self) -> list[BaseModel]:
        delta = ChatDelta(role="assistant", content=None if self._readers else "")
        return [self._chunk([ChatChunkChoice(index=i, delta=delta)]) for i in range(self.n_choices)]

    def chunk(self, piece: Piece) -> BaseModel | None:
        content, calls, finish = self._read(piece.choice, piece.text, piece.finish)
        if not (content or calls or piece.scored or finish):
            return None
        delta = ChatDelta(content=content or None, tool_calls=[_call_delta(call) for call in calls] or None)
        logprobs = self._logprobs(piece.scored) if self._scores else None
        return self._chunk([ChatChunkChoice(index=piece.choice, delta=delta, logprobs=logprobs, finish_reason=finish)])

    def usage_chunk(self, usage: Usage) -> BaseModel:
        return self._chunk([], usage)

    def whole(self, choices: list[list[Piece]], usage: Usage) -> BaseModel:
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.served.name,
            system_fingerprint=self.served.artifact_id,
            choices=[self._choice(index, pieces) for index, pieces in enumerate(choices)],
            usage=usage,
        )

    def _choice(self, index: int, pieces: list[Piece]) -> ChatChoice:
        content, calls, finish = self._read(index, "".join(piece.text for piece in pieces), _finish(pieces))
        assert finish is not None
        message = AnswerMessage(
            content=None if calls and not content else content, tool_calls=[_call(call) for call in calls] or None
        )
        logprobs = self._logprobs(_all_scored(pieces)) if self._scores else None
        return ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=finish)

    def _read(
        self, choice: int, text: str, finish: FinishReason | None
    ) -> tuple[str, list[CallPiece], FinishReason | None]:
        """What the next text of a choice adds: (content, calls), and how the choice ends."""
        if not self._readers:
            return text, [], finish
        reader = self._readers[choice]
        content, calls = reader.push(text, last=finish is not None)
        return content, calls, "tool_calls" if finish == "stop" and reader.calls else finish

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            id=self.id,
            created=self.created,
            model=self.served.name,
            system_fingerprint=self.served.artifact_id,
            choices=choices,
            usage=usage,
        )

    def _logprobs(self, scored: Iterable[ScoredToken]) -> ChatLogprobs:
        return ChatLogprobs(
            content=[
                TokenLogprob(
                    **self._top(token.id, token.logprob).model_dump(),
                    top_logprobs=[self._top(*alternative) for alternative in token.top],
                )
                for token in scored
            ]
        )

    def _top(self, token_id: int, logprob: float | None) -> TopLogprob:
        assert logprob is not None, "only an echoed prompt has a token without one"
        data = token_bytes(self.served, token_id)
        return TopLogprob(token=data.decode(errors="replace"), logprob=logprob, bytes=list(data))


class CompletionAnswer(Answer):
    prefix = "cmpl"

    def __init__(self, request: GenerationRequest, generation: Generation) -> None:
        super().__init__(request, generation)
        self._written = [self._start(i) for i in range(self.n_choices)]  # characters so far, for text_offset

    def chunk(self, piece: Piece) -> BaseModel:
        choice = self._choice(piece.choice, piece.text, piece.scored, piece.finish, self._written[piece.choice])
        self._written[piece.choice] += sum(len(self._shown(token.id)) for token in piece.scored)
        return self._completion([choice])

    def usage_chunk(self, usage: Usage) -> BaseModel:
        return self._completion([], usage)

    def whole(self, choices: list[list[Piece]], usage: Usage) -> BaseModel:
        texts = ["".join(piece.text for piece in pieces) for pieces in choices]
        return self._completion(
            [
                self._choice(index, texts[index], _all_scored(pieces), _finish(pieces), self._written[index])
                for index, pieces in enumerate(choices)
            ],
            usage,
        )

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None = None) -> Completion:
        return Completion(
            id=self.id,
            created=self.created,
            model=self.served.name,
            system_fingerprint=self.served.artifact_id,
            choices=choices,
            usage=usage,
        )

    def _choice(
        self, index: int, text: str, scored: Iterable[ScoredToken], finish: FinishReason | None, offset: int
    ) -> CompletionChoice:
        logprobs = self._logprobs(scored, offset) if self._scores else None
        return CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=finish)

    def _logprobs(self, scored: Iterable[ScoredToken], offset: int) -> CompletionLogprobs:
        out = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for token in scored:
            out.tokens.append(self._label(token.id))
            out.token_logprobs.append(token.logprob)
            known = (*token.top, (token.id, token.logprob)) if token.logprob is not None else None
            out.top_logprobs.append({self._label(i): p for i, p in known} if known is not None else None)
            out.text_offset.append(max(offset, 0))
            offset += len(self._shown(token.id))
        return out

    def _start(self, choice: int) -> int:
        """Where the first token of a choice stands: so that an echoed prompt ends where its text does.

        Below 0 when its tokens have a blank in front that the text has not, as sentencepiece's do.
        """
        if self.generation.echo is None or not self._scores:
            return 0
        number = choice // self.generation.sampling.n
        width = sum(len(self._shown(token)) for token in self.generation.prompts[number])
        return len(self.generation.echo[number]) - width

    def _shown(self, token_id: int) -> str:
        """The whole characters a token adds; a character cut in two counts with its first half."""
        tokenizer = self.served.tokenizer
        if tokenizer is None or token_id in tokenizer.special_ids:
            return ""
        data = tokenizer.token_bytes(token_id)
        return "".join(chr(byte) for byte in data if byte & 0xC0 != 0x80)  # one per first byte of a character

    def _label(self, token_id: int) -> str:
        data = token_bytes(self.served, token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def token_bytes(served: ServedModel, token_id: int) -> bytes:
    """The bytes of a token; of a special one, its name. Without a tokenizer, its number."""
    if served.tokenizer is None:
        return str(token_id).encode()
    return served.tokenizer.token_bytes(token_id)


def _call(call: CallPiece) -> AnswerCall:
    assert call.id is not None and call.name is not None, "a whole answer has the beginning of each call"
    return AnswerCall(id=call.id, function=CalledFunction(name=call.name, arguments=call.arguments))


def _call_delta(call: CallPiece) -> CallDelta:
    function = FunctionDelta(name=call.name, arguments=call.arguments)
    return CallDelta(index=call.index, id=call.id, type="function" if call.id else None, function=function)


def _all_scored(pieces: list[Piece]) -> list[ScoredToken]:
    return [token for piece in pieces for token in piece.scored]


def _finish(pieces: list[Piece]) -> FinishReason:
    if not pieces or pieces[-1].finish is None:
        raise ApiError(500, "the engine ended an answer without a reason", kind="server_error")
    return pieces[-1].finish

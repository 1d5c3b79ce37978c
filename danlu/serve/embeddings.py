"""Embeddings over HTTP: texts in, one vector for each out, in OpenAI's form.

    {"model": "m", "input": ["a", "b"]}  ->  {"object": "list", "model": "m", "usage": {...}, "data": [
                                                 {"object": "embedding", "index": 0, "embedding": [0.1, ...]}, ...]}

With `encoding_format` "base64", which the official client asks for by itself, a vector is its float32 numbers, little
end first, as text: a third of the bytes, and nothing is rounded. Texts are requests of the engine like any others: they
wait their turn, share steps with running answers, and are refused with 503 by a full server.

`pooling`, `normalize` and `priority` are danlu's additions (engine/pooling.py).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from danlu.serve.generation import Generation, ServedModel
from danlu.serve.protocol import Identifier, Prompts
from danlu.serve.wire import ApiError, WireModel

if TYPE_CHECKING:
    from danlu.engine import Sampling


class EmbeddingRequest(WireModel):
    NOT_SUPPORTED: ClassVar[frozenset[str]] = frozenset({"dimensions"})

    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] = "float"
    pooling: Literal["last", "mean"] = "last"
    normalize: bool = True  # to length 1
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)  # as with answers
    user: Identifier | None = None  # written to the event log with the request


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def embedding_sampling(served: ServedModel, texts: Sequence[list[int]], request: EmbeddingRequest) -> Sampling:
    """What the engine is asked. ApiError 400 for a text that is longer than the context."""
    from danlu.engine import Pooling, Sampling

    longest = max(range(len(texts)), key=lambda index: len(texts[index]))
    if len(texts[longest]) > served.context_length:
        message = (
            f"this model's context length is {served.context_length} tokens, "
            f"but text {longest} of the input has {len(texts[longest])}"
        )
        raise ApiError(400, message, param="input", code="context_length_exceeded")
    return Sampling(max_tokens=0, pooling=Pooling(request.pooling, request.normalize))


class EmbeddingAnswer:
    """The vectors of one request."""

    def __init__(self, request: EmbeddingRequest, generation: Generation) -> None:
        self.request, self.generation = request, generation

    async def collect(self) -> EmbeddingList:
        vectors: dict[int, tuple[float, ...]] = {}
        async for piece in self.generation.pieces():
            if piece.embedding is None:
                raise ApiError(500, "the engine ended a text without its vector", kind="server_error")
            vectors[piece.choice] = piece.embedding
        tokens = self.generation.prompt_tokens
        return EmbeddingList(
            data=[Embedding(index=index, embedding=self._encoded(vectors[index])) for index in sorted(vectors)],
            model=self.generation.served.name,
            usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        )

    def _encoded(self, vector: tuple[float, ...]) -> list[float] | str:
        if self.request.encoding_format == "float":
            return list(vector)
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

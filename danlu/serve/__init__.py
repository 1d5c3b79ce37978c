"""serve: a loaded engine becomes an OpenAI-compatible server with a chat page.

One door in, `run(models, ...)`; one walk through the room:

    HTTP body -> protocol, tools (typed request, or a 400 that names the field)
              -> generation (chat template, tokenizer, limits, form: what the engine is asked)
              -> worker (the engine's own thread; deltas come back to the event loop; 503 when it is full)
              -> completions, tool_reader, embeddings (OpenAI's answer, whole or as server-sent events)

The chat page takes the same walk from `generation` on, inside the process. What was served is counted in `metrics`.

    from danlu.serve import ServerConfig, create_app, run
    run({"poet": danlu.Engine("poet")}, port=8000)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.serve.app import ServerConfig, create_app
    from danlu.serve.server import run

STAGES: tuple[str, ...] = ()

MAX_WAITING = 128  # answers that may wait for their turn: four rounds of an engine's 32 (not tuned)

_EXPORTS = {"ServerConfig": "danlu.serve.app", "create_app": "danlu.serve.app", "run": "danlu.serve.server"}

__all__ = ["MAX_WAITING", "STAGES", "ServerConfig", "create_app", "run"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        from importlib import import_module

        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

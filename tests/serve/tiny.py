"""A model of a few thousand parameters with a real tokenizer, and servers around it, for the tests of this room."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from danlu.core.events import Events
from danlu.engine import Engine
from danlu.model.config import ModelConfig
from danlu.model.hub import save_model
from danlu.model.transformer import Transformer
from danlu.serve.app import ServerConfig, create_app
from danlu.serve.server import bind
from danlu.tokenizer import bpe, chat
from danlu.tokenizer.tokenizer import Tokenizer, make_config
from tests.tokenizer.shared import hermes

CONTEXT = 8192
TEXT = [
    "The furnace turns raw ore into gold, and raw text into a model. ",
    "def add(first, second):\n    return first + second\n",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
] * 4
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<tool_call>", "</tool_call>"]


def tiny_tokenizer(*, chat_template: bool = True) -> Tokenizer:
    config = make_config(
        eos_token="<|im_end|>" if chat_template else "<|endoftext|>",
        special_tokens=SPECIAL,
        chat_template=chat.CHATML if chat_template else None,
    )
    return Tokenizer(bpe.train_bpe(TEXT, vocab_size=330, special_tokens=SPECIAL), config)


def tool_tokenizer(*, special: bool) -> Tokenizer:
    """Of a model made for tools: a template that knows them, tags that are tokens, flagged special or not."""
    trained = json.loads(bpe.train_bpe(TEXT, vocab_size=330, special_tokens=[*SPECIAL, *TAGS]))
    for token in trained["added_tokens"]:
        token["special"] = special or token["content"] not in TAGS
    config = make_config(eos_token="<|im_end|>", special_tokens=SPECIAL, chat_template=hermes())
    return Tokenizer(json.dumps(trained), config)


def tiny_model(tokenizer: Tokenizer, seed: int = 0) -> Transformer:
    """Random weights, large enough apart that sampling is lively and greedy answers are stable."""
    import torch

    config = ModelConfig(
        family="llama",
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        n_layers=2,
        n_heads=2,
        intermediate_size=128,
        max_position=CONTEXT,
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(seed))
    return model.eval()


def write_model(path: Path, *, chat_template: bool = True) -> Path:
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    save_model(tiny_model(tokenizer), path, tokenizer)
    return path


def tiny_engine(*, chat_template: bool = True, **options: Any) -> Engine:
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    return Engine((tiny_model(tokenizer), tokenizer), **{"max_sequences": 4, "kv_bytes": 64 << 20, **options})


@contextmanager
def in_thread(
    models: dict[str, Engine], config: ServerConfig | None = None, events: Events | None = None
) -> Iterator[str]:
    """A real server on a free port in a thread of this process, without the page. Yields its address."""
    config = config or ServerConfig(page=False)
    listener = bind("127.0.0.1", 0)
    app = create_app(models, config, events=events)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


SCRIPT = """
import sys
from danlu.engine import Engine
from danlu.serve import run
key, *pairs = sys.argv[1:]
engines = {}
for pair in pairs:
    name, _, path = pair.partition("=")
    engines[name] = lambda path=path: Engine(path, max_sequences=4, kv_bytes=64 << 20)
sys.exit(run(engines, port=0, api_key=key or None, drain_seconds=60))
"""


class Process:
    """`danlu.serve.run` in a process of its own, as a user runs it."""

    def __init__(self, models: dict[str, Path], key: str = "", **environment: str) -> None:
        arguments = [f"{name}={path}" for name, path in models.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, key, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stderr is not None
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(r"serving .* on (http://\S+)", line):
                self.url = match[1]
                break
        else:
            raise AssertionError("the server did not start:\n" + "".join(self.lines))
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True)
        self._reader.start()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=90)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true value of `condition`, asked again and again until a deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")


def metric(url: str, name: str, **labels: str) -> float:
    """One sample of /metrics, read by Prometheus's own parser; 0 when it is not there yet."""
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0

"""Models behind the OpenAI protocol, asked by the thousand: the one client of this room.

    endpoint = Endpoint("http://127.0.0.1:8000/v1", "my-model")
    with Asker(endpoint, cache=path) as asker:
        for answer in asker.ask_all(prompts):      # in the order of the prompts, as soon as each is there

danlu's own server speaks the protocol, and so does nearly everything else. Asking costs money or hours, so

- every answer is kept in an sqlite file under the hash of model, messages and parameters: what was asked once, in this
  run or one that was killed, is not asked again;
- answers that say "later" (429, 5xx) and connections that break are tried again, after 1, 2, 4 ... s or what the server
  asks for; one that fails to the end is an answer with an `error`, counted and never made up;
- `concurrency` questions are on their way at once, and no more are taken from the iterator than that.

Nothing is sent anywhere but to the `base_url` that the user named. The key comes from an environment variable: a config
is written into manifests, a key is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from danlu.core.errors import StageFailed, UserError, need
from danlu.core.stage import StageConfig

_LONGEST_WAIT = 60.0  # seconds between tries, whatever a server asks for
_HOPELESS = 16  # failures in a row, without one answer, that end a run


class Endpoint(StageConfig):
    """Where to ask, whom, and how patiently."""

    base_url: str
    """Up to and with the version: http://127.0.0.1:8000/v1."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable with the key; unset means that none is sent."""
    concurrency: Annotated[int, Field(ge=1, le=512)] = 8
    retries: Annotated[int, Field(ge=0)] = 5
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds for one answer."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_tokens: Annotated[int, Field(ge=1)] = 256
    seed: int | None = 0
    """Sent along; servers that know no seed ignore it or refuse: then set it to null."""


@dataclass(frozen=True)
class Answer:
    """What came back: `text`, or why there is none in `error`. `cached`: it was known before."""

    text: str
    error: str = ""
    cached: bool = False


class Asker:
    """Asks one endpoint; answers are cached in the sqlite file `cache` (None: in memory)."""

    def __init__(self, endpoint: Endpoint, cache: Path | None = None, first_wait: float = 1.0) -> None:
        """`first_wait`: seconds before the first retry; each next one waits twice as long."""
        self.endpoint = endpoint
        self._httpx = need("httpx", "remote")
        key = os.environ.get(endpoint.key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = self._httpx.Client(timeout=endpoint.timeout, headers=headers)
        self._cache = sqlite3.connect(cache or ":memory:")
        self._cache.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL)")
        self._first_wait = first_wait
        self._pool = ThreadPoolExecutor(endpoint.concurrency)
        self._failed_in_a_row, self._answered, self._stopped = 0, 0, False

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._client.close()
        self._cache.commit()
        self._cache.close()

    def ask(self, prompt: str | list[dict[str, str]]) -> Answer:
        """One answer to one prompt (text of the user, or messages)."""
        return next(self.ask_all([prompt]))

    def ask_all(self, prompts: Iterable[str | list[dict[str, str]]]) -> Iterator[Answer]:
        """The answer to each prompt, in their order.

        Raises UserError when the server refuses the key or knows no such model or address, StageFailed when it cannot
        be reached at all.
        """
        waiting: deque[tuple[str, Answer | Future[Answer]]] = deque()
        for prompt in prompts:
            body = self._body(prompt)
            key = hashlib.sha256(
                json.dumps(body, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")
            ).hexdigest()
            found = self._cache.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
            waiting.append((key, Answer(found[0], cached=True) if found else self._pool.submit(self._ask, body)))
            if len(waiting) >= 2 * self.endpoint.concurrency:
                yield self._take(*waiting.popleft())
        while waiting:
            yield self._take(*waiting.popleft())

    def _body(self, prompt: str | list[dict[str, str]]) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        one = self.endpoint
        body = {"model": one.model, "messages": messages, "temperature": one.temperature, "max_tokens": one.max_tokens}
        return body | ({"seed": one.seed} if one.seed is not None else {})

    def _take(self, key: str, answer: Answer | Future[Answer]) -> Answer:
        if isinstance(answer, Answer):
            return answer
        done = answer.result()
        if not done.error:
            self._answered, self._failed_in_a_row = self._answered + 1, 0
            with self._cache:
                self._cache.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, done.text))
            return done
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _HOPELESS and not self._answered:
            self._stopped = True
            raise StageFailed(f"{self.endpoint.base_url} does not answer: {done.error}", "check that the server runs")
        return done

    def _ask(self, body: dict[str, Any]) -> Answer:
        """In a thread: post, wait and try again as the top of this file says."""
        error = "stopped"
        wait = self._first_wait
        for attempt in range(self.endpoint.retries + 1):
            if self._stopped:
                break
            try:
                reply = self._client.post(f"{self.endpoint.base_url.rstrip('/')}/chat/completions", json=body)
            except self._httpx.HTTPError as problem:
                error = f"{type(problem).__name__}: {problem}"
            except self._httpx.InvalidURL as problem:
                raise UserError(f'"{self.endpoint.base_url}" is no address ({problem})') from None
            else:
                if reply.status_code in (401, 403, 404):
                    raise UserError(
                        f"{self.endpoint.base_url} refuses ({reply.status_code}): {reply.text[:200]}",
                        f"check base_url, model and the key in {self.endpoint.key_variable}",
                    )
                if reply.status_code == 200:
                    return _read(reply)
                error = f"status {reply.status_code}: {reply.text[:200]}"
                if reply.status_code < 500 and reply.status_code not in (408, 409, 425, 429):
                    break  # the question itself is wrong: too long, refused
                asked = reply.headers.get("retry-after", "")
                wait = max(wait, float(asked)) if asked.isdigit() else wait
            if attempt < self.endpoint.retries:
                time.sleep(min(wait, _LONGEST_WAIT))
                wait *= 2
        return Answer("", error)


def _read(reply: Any) -> Answer:
    try:
        text = reply.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return Answer("", f"not an answer of the protocol: {reply.text[:200]}")
    return Answer(text) if isinstance(text, str) else Answer("", "an answer without text")

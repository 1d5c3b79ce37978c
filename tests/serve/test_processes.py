"""Serving from engines with processes of their own: who dies is told from what goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from danlu.engine import Engine, Replicas
from tests.serve import tiny

LONG: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 8000, "ignore_eos": True, "stream": True}
SHORT: dict[str, Any] = {"model": "tiny", "prompt": "春眠", "max_tokens": 12, "ignore_eos": True, "temperature": 0}


def chunks(stream: httpx.Response) -> Iterator[str]:
    """The JSON of each event."""
    return (line[6:] for line in stream.iter_lines() if line.startswith("data: {"))


def test_replicas_answer_as_one_and_a_dead_one_takes_its_answers_alone(model_paths: dict[str, Path]) -> None:
    engines = Replicas(model_paths["tiny"], 2, max_sequences=4, kv_bytes=64 << 20)
    with tiny.in_thread({"tiny": engines}) as url:
        answers: list[Any] = [None] * 12

        def ask(index: int) -> None:
            answers[index] = httpx.post(f"{url}/v1/completions", json=SHORT, timeout=60).json()["choices"]

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(answer == answers[0] for answer in answers) and answers[0][0]["finish_reason"] == "length"
        assert tiny.metric(url, "danlu_generated_tokens_total") == 12 * 12

        with (
            httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as one,
            httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as two,
        ):
            first, second = (chunks(stream) for stream in (one, two))
            next(first), next(second)
            victim = min(engines._replicas, key=lambda replica: min(replica.open))
            os.kill(victim.child.process.pid, signal.SIGKILL)
            assert json.loads(list(first)[-1])["error"]["code"] == "replica_lost"
            assert all("error" not in json.loads(next(second)) for _ in range(50))
        assert tiny.metric(url, "danlu_requests_total", outcome="failed") == 1
        assert httpx.post(f"{url}/v1/completions", json=SHORT, timeout=60).json()["choices"] == answers[0]
        processes = [replica.child.process for replica in engines._replicas]
    assert all(process.poll() is not None for process in processes), "the server closes what it serves"


def test_a_model_that_lost_a_rank_is_not_served_any_more(model_paths: dict[str, Path]) -> None:
    engine = Engine(model_paths["tiny"], max_sequences=4, kv_bytes=64 << 20, tensor_parallel=2)
    with tiny.in_thread({"tiny": engine}) as url:
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as stream:
            lines = chunks(stream)
            next(lines)
            os.kill(engine.runner._children[0].process.pid, signal.SIGKILL)  # type: ignore[union-attr]
            assert "error" in json.loads(list(lines)[-1])
        health = httpx.get(f"{url}/health")
        assert health.status_code == 503 and "killed by SIGKILL" in health.json()["models"]["tiny"]
        assert httpx.post(f"{url}/v1/completions", json=SHORT).status_code == 503


@pytest.mark.journey
def test_ctrl_c_ends_the_server_and_its_replicas(model_paths: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "danlu.cli.main", "serve", str(model_paths["tiny"]), "--port=0", "--replicas=2"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0, cwd=tmp_path)
    assert server.stderr is not None
    url = ""
    while not url:
        line = server.stderr.readline()
        assert line, "the server ended"
        url = next((word for word in line.split() if word.startswith("http://")), "")
    replicas = psutil.Process(server.pid).children()
    assert len(replicas) == 2
    with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as stream:
        next(chunks(stream))
        os.killpg(server.pid, signal.SIGINT)  # as the terminal does: to the whole group
        assert "stopping" in server.stderr.readline()  # two signals that wait for one process would be one
        os.killpg(server.pid, signal.SIGINT)  # and again: at once
    assert server.wait(timeout=60) == 130
    tiny.until(lambda: not any(replica.is_running() for replica in replicas))
    assert "Traceback" not in server.stderr.read()

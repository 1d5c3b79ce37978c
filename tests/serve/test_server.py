"""The server as a process: start, addresses, and stopping with work in hand."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from danlu.core.errors import UserError
from danlu.serve import server
from danlu.serve.server import bind, run
from tests.serve import tiny

pytestmark = pytest.mark.journey


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_shutdown_finishes_the_running_requests(model_paths: dict[str, Path], number: int, code: int) -> None:
    ask = {"model": "tiny", "prompt": "x", "max_tokens": 2000, "ignore_eos": True, "seed": 1}
    with tiny.Process(model_paths, DANLU_KERNELS="off") as process:  # on torch, so that answers take a while
        whole: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: whole.append(httpx.post(f"{process.url}/v1/completions", json=ask, timeout=90))
        )
        with httpx.stream("POST", f"{process.url}/v1/completions", json=ask | {"stream": True}, timeout=90) as stream:
            lines = stream.iter_lines()
            next(lines)
            thread.start()
            tiny.until(lambda: tiny.metric(process.url, "danlu_requests_running") == 2)
            process.process.send_signal(number)
            tiny.until(lambda: refuses_connections(process.url))
            assert process.process.poll() is None, "it must finish its work first"
            chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            thread.join(timeout=90)
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert whole[0].status_code == 200
        assert whole[0].json()["usage"]["completion_tokens"] == 2000
        assert process.process.wait(timeout=60) == code
        assert "Traceback" not in "".join(process.lines)


def test_a_second_signal_stops_at_once(model_paths: dict[str, Path]) -> None:
    ask = {"model": "tiny", "prompt": "x", "max_tokens": 8000, "ignore_eos": True, "stream": True}
    with tiny.Process(model_paths, DANLU_KERNELS="off") as process:
        with httpx.stream("POST", f"{process.url}/v1/completions", json=ask, timeout=90) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.process.send_signal(signal.SIGINT)
            tiny.until(lambda: refuses_connections(process.url))
            process.process.send_signal(signal.SIGINT)
            assert process.process.wait(timeout=30) == 130


def refuses_connections(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_loopback_answers_only_for_loopback_names(model_paths: dict[str, Path]) -> None:
    with tiny.Process(model_paths) as process:
        assert httpx.get(f"{process.url}/health").status_code == 200
        assert httpx.get(f"{process.url}/health", headers={"host": "evil.example"}).status_code == 421
        assert process.stop() == 0


def never() -> Any:
    raise AssertionError("no model may be loaded before the port is ours")


def test_a_taken_port_is_told_before_a_model_is_loaded() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken"):
            run({"m": never}, port=port)


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [("127.0.0.1", 70000, "not a port"), ("203.0.113.7", 0, "not an address"), ("no such host", 0, "not an address")],
)
def test_addresses_that_cannot_be(host: str, port: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        run({"m": never}, host=host, port=port)


@pytest.mark.parametrize("key", ["", "  ", "schlüssel"])
def test_keys_that_protect_nothing(key: str) -> None:
    with pytest.raises(UserError, match="API key"):
        run({"m": never}, port=0, api_key=(key,))


def test_an_open_address_without_a_key_warns() -> None:
    said: list[str] = []

    def stop() -> Any:
        raise KeyboardInterrupt

    for host, key, warned in (("0.0.0.0", None, True), ("0.0.0.0", "a-key", False), ("127.0.0.1", None, False)):
        said.clear()
        with pytest.raises(KeyboardInterrupt):
            run({"m": stop}, host=host, port=0, api_key=key, say=said.append)
        assert any("without an API key" in line for line in said) is warned


def test_the_address_to_open_is_one_a_browser_can_open() -> None:
    assert server._url_host("0.0.0.0") == "127.0.0.1"
    assert server._url_host("::1") == "[::1]"
    assert server._url_host("localhost") == "localhost"


def test_importing_the_room_is_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, danlu.serve, danlu.serve.server; "
        "print([m for m in ('torch', 'fastapi', 'nicegui', 'uvicorn', 'prometheus_client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_nicegui_the_api_runs_and_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from danlu.serve.app import ServerConfig

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "nicegui" else real(name, *rest)
    )
    with tiny.in_thread({"tiny": tiny.tiny_engine()}, ServerConfig(page=True)) as url:
        page = httpx.get(f"{url}/")
        assert page.status_code == 200
        assert "pip install" in page.text
        assert httpx.get(f"{url}/v1/models").status_code == 200

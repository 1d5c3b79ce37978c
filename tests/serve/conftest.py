from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.serve import tiny


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A running server with a chat model `tiny` and a base model `base`."""
    with tiny.in_thread({"tiny": tiny.tiny_engine(), "base": tiny.tiny_engine(chat_template=False)}) as url:
        yield url


@pytest.fixture(scope="session")
def client(server: str) -> OpenAI:
    return OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def model_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "tiny": tiny.write_model(root / "tiny"),
        "base": tiny.write_model(root / "base", chat_template=False),
    }

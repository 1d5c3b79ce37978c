"""When the GPU kernels are used, and what is said when they are not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
import torch

from danlu.kernels import gpu
from tests.kernels.on_gpu import DEVICE, activation

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def not_asked_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a CPU the interpreter stands for the GPU."""
    if DEVICE.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    gpu._enabled.cache_clear()
    yield
    gpu._enabled.cache_clear()


def test_used_where_a_launch_gives_the_right_numbers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "danlu"):
        assert gpu.enabled(DEVICE) and gpu.enabled(DEVICE)
    assert [record.levelname for record in caplog.records] == ["INFO"], "said once"


def test_a_cpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not gpu.enabled(CPU) and not caplog.records


def test_switched_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("DANLU_KERNELS", "off")
    assert not gpu.enabled(DEVICE) and not caplog.records


def refused(caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.INFO, "danlu"):
        assert not gpu.enabled(DEVICE) and not gpu.enabled(DEVICE)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    return record.getMessage()


def test_without_triton(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "danlu.kernels.gpu.activation", None)
    assert "there is no package triton" in refused(caplog)


def test_a_launch_that_fails(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(activation, "swiglu", fail)
    message = refused(caplog)
    assert "a first launch failed: RuntimeError: Failed to find C compiler." in message and "\n" not in message


def test_a_launch_that_gives_wrong_numbers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(activation, "swiglu", lambda x: x[:, :16] + 1)
    assert "wrong numbers" in refused(caplog)


def test_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert gpu._obstacle("cuda") == "Tesla T4 is older than compute capability 8.0"

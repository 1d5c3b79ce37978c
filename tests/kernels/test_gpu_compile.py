"""Every kernel compiles for Ampere and Hopper, with no GPU in the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is for Linux")

SHARED_BYTES = 99 * 1024  # what a program may have on the smaller GPUs of compute capability 8; an A100 has 163 KiB
KERNELS = {
    "_swiglu", "_add_rms_norm", "_rotate_and_store", "_multiply_tile", "_add_parts", "_multiply_row", "_widen",
    "_attend", "_join", "_best_of_part", "_best_of_parts", "_follow",
}  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ptxas comes with Triton for x86-64")
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles(capability: int) -> None:
    command = [sys.executable, "-m", "tests.kernels.compile_for_gpu", str(capability)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["kernel"] for one in made} == KERNELS
    for one in made:
        assert one["size"] > 0 and one["shared"] <= SHARED_BYTES, one

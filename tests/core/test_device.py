import torch

from danlu.core.device import choose_dtype, probe, torch_device


def test_the_probe_measures_and_chooses() -> None:
    device = probe()
    assert device.matmul_flops["float32"] > 1e8 and device.bandwidth > 1e8
    assert device.dtype in device.matmul_flops
    assert device.peak_flops == device.matmul_flops[device.dtype]
    assert 0 < device.free_bytes <= device.memory_bytes
    assert probe() is device


def test_the_chosen_device_runs() -> None:
    device = torch_device()
    assert float((torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device))[0, 0]) == 8.0


def test_a_busy_machine_does_not_change_the_dtype() -> None:
    """bfloat16 measured at half of what it is, and float32 on a machine without its instructions."""
    assert choose_dtype({"float32": 200e9, "bfloat16": 120e9}, True) == "bfloat16"
    assert choose_dtype({"float32": 200e9, "bfloat16": 20e9}, True) == "float32"
    assert choose_dtype({"float32": 160e9, "bfloat16": 2e9}, False) == "float32"
    assert choose_dtype({"float32": 160e9, "bfloat16": 200e9}, False) == "float32"
    assert choose_dtype({"float32": 160e9}, True) == "float32"

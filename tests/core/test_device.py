import torch

from danlu.core.device import probe, torch_device


def test_the_probe_measures_and_chooses_the_faster_dtype() -> None:
    device = probe()
    assert device.matmul_flops["float32"] > 1e8 and device.bandwidth > 1e8
    assert device.dtype == max(device.matmul_flops, key=lambda name: device.matmul_flops[name])
    assert device.peak_flops == device.matmul_flops[device.dtype]
    assert 0 < device.free_bytes <= device.memory_bytes
    assert probe() is device


def test_the_chosen_device_runs() -> None:
    device = torch_device()
    assert float((torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device))[0, 0]) == 8.0

"""The engine on the GPU's kernels: whole tiny models through them, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import copy

import pytest
import torch

from danlu.engine import Engine, Sampling
from danlu.engine.fused import FusedForward
from danlu.engine.runner import Runner
from danlu.model.quantized import cast_rest_, float_dtype, float_twin, matrices, quantize_
from danlu.model.transformer import Transformer
from tests.engine.models import SHAPES, full_forward, greedy, make_model, random_prompt
from tests.kernels.on_gpu import DEVICE, kernels_on  # noqa: F401

pytestmark = pytest.mark.usefixtures("kernels_on")


def engine(model: Transformer, **limits: int) -> Engine:
    """On a CPU in blocks of 8 tokens, since in blocks of 16 the compiled kernels would take the model."""
    e = Engine((copy.deepcopy(model).to(DEVICE), None), **{"block_size": 8, **limits})  # type: ignore[arg-type]
    assert isinstance(e.runner, Runner) and isinstance(e.runner._fused, FusedForward)
    return e


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_a_full_forward_on_torch(shape: str) -> None:
    """A short and a long prompt, the second in two chunks: decoding and reading in one batch."""
    model = make_model(shape)
    prompts = [random_prompt(n, seed=n) for n in (3, 22)]
    settings = Sampling(temperature=0, max_tokens=2, logprobs=101)
    for prompt, output in zip(prompts, engine(model, max_batch_tokens=20).generate(prompts, settings), strict=True):
        assert list(output.token_ids) == greedy(model, prompt, 2)
        wanted = full_forward(model, prompt)[-1].log_softmax(-1)
        got = dict(output.logprobs[0].top)  # type: ignore[index]
        assert max(abs(got[token] - float(wanted[token])) for token in range(101)) < 1e-3


def test_weights_that_are_part_of_others_or_turned() -> None:
    """What our kernels do not read is left to torch, a single row as well."""
    model, prompt = make_model("gqa"), random_prompt(3)
    wanted = greedy(model, prompt, 3)
    for block in model.blocks:
        turned, wide = block.attention.out, block.mlp.down  # type: ignore[union-attr]
        turned.weight.data = turned.weight.data.t().contiguous().t()  # type: ignore[union-attr]
        wide.weight.data = torch.cat((wide.weight.data, wide.weight.data), dim=1)[:, : wide.weight.shape[1]]  # type: ignore[union-attr,index]
    assert list(next(engine(model).generate(prompt, Sampling(temperature=0, max_tokens=3))).token_ids) == wanted


def test_vectors_equal_a_forward_pass_on_torch_beside_an_answer() -> None:
    model, text, prompt = make_model("gqa"), random_prompt(22, seed=22), random_prompt(3)
    e = engine(model, max_batch_tokens=9)
    answer = e.submit(prompt, Sampling(temperature=0, max_tokens=4))
    with torch.inference_mode():
        hidden = model.hidden(torch.tensor([text]))[0]
    for pooling, wanted in (("last", hidden[-1]), ("mean", hidden.mean(0))):
        got = e.embed(text, pooling, normalize=False)
        assert got.device.type == "cpu"
        torch.testing.assert_close(got[0], wanted, atol=1e-3, rtol=1e-3)
    assert list(answer.outputs()[0].token_ids) == greedy(model, prompt, 4)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_gives_the_logits_of_torch(bits: int) -> None:
    model = make_model("qk_norm", hidden_size=64, intermediate_size=96)
    quantize_(model, bits)
    wide = copy.deepcopy(model)
    for name, matrix in matrices(wide).items():
        wide.set_submodule(name, float_twin(matrix, torch.float32))
    prompt = random_prompt(4)
    wanted = full_forward(wide, prompt)[-1].log_softmax(-1)
    output = next(engine(model).generate(prompt, Sampling(temperature=0, max_tokens=1, logprobs=101)))
    got = dict(output.logprobs[0].top)  # type: ignore[index]
    assert max(abs(got[token] - float(wanted[token])) for token in range(101)) < 1e-3


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_computes_in_the_dtype_of_its_norms(bits: int) -> None:
    """Its scales keep theirs; on torch's operators as well."""
    model = make_model("qk_norm", hidden_size=64, intermediate_size=96)
    quantize_(model, bits)
    scale, prompt = model.embedding.weight_scale.clone(), random_prompt(9)  # type: ignore[operator]
    wanted = full_forward(model, prompt)[-1].log_softmax(-1)
    cast_rest_(model, torch.bfloat16)
    assert float_dtype(model) == torch.bfloat16 and torch.equal(model.embedding.weight_scale, scale)
    e = engine(model)
    assert e.dtype == e.cache.shape.dtype == torch.bfloat16
    got = dict(next(e.generate(prompt, Sampling(temperature=0, max_tokens=1, logprobs=101))).logprobs[0].top)  # type: ignore[index]
    assert max(abs(got[token] - float(wanted[token])) for token in range(101)) < 5e-2
    on_torch = full_forward(model, prompt)[-1].float().log_softmax(-1)
    assert (on_torch - wanted).abs().max() < 5e-2


def test_preemption_and_scattered_blocks_change_no_token() -> None:
    model = make_model("some_windows")
    prompts = [random_prompt(n, seed=n) for n in (5, 7)]
    tight = engine(model, kv_bytes=5 * 4 * engine(model).cache.shape.bytes_per_token, block_size=4)
    outputs = list(tight.generate(prompts, Sampling(temperature=0, max_tokens=5)))
    assert tight.stats.preemptions > 0
    assert [list(output.token_ids) for output in outputs] == [greedy(model, prompt, 5) for prompt in prompts]


def test_nan_ends_the_request_and_not_the_engine() -> None:
    model = make_model("gqa")
    with torch.no_grad():
        model.blocks[1].mlp_norm.weight[3] = float("nan")
    e = engine(model)
    request = e.submit([1, 2, 3], Sampling(max_tokens=4))
    while not request.finished:
        e.step()
    assert request.outputs()[0].finish_reason == "error"
    e.cache.check([])


def test_switched_off_runs_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.kernels import gpu

    monkeypatch.setenv("DANLU_KERNELS", "off")
    gpu._enabled.cache_clear()
    e = Engine((make_model("gqa").to(DEVICE), None), block_size=8)
    assert isinstance(e.runner, Runner) and e.runner._fused is None


def test_what_the_kernels_do_not_know_runs_on_torch() -> None:
    wide = make_model("mqa", head_dim=258)
    assert not FusedForward.fits(wide, DEVICE)

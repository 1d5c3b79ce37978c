"""The compiled decoder against the model it was made from, and against itself in other company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from danlu.engine.compiled import compile_adapter, compile_model
from danlu.kernels.build import library
from danlu.kernels.decoder import PAGE, Decoder, KernelError, LoraWeights, Shape
from danlu.model.adapter import merge
from danlu.model.config import ModelConfig
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from tests.adapters import make_adapter

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels here")

CONTEXT = 700
SHAPES: dict[str, dict[str, Any]] = {
    "gqa": {"n_heads": 4, "n_kv_heads": 2},
    "mqa": {"n_heads": 6, "n_kv_heads": 1, "head_dim": 16},
    "mha": {"n_heads": 4, "qkv_bias": True, "mlp_bias": True, "output_bias": True, "tie_embeddings": False},
    "window": {"n_heads": 4, "n_kv_heads": 2, "sliding_window": 70},
    "some_windows": {"n_heads": 4, "n_kv_heads": 2, "sliding_window": 9, "sliding_layers": (1,)},
    "qk_norm": {"n_heads": 4, "n_kv_heads": 2, "qk_norm": True, "head_dim": 32},
    "learned": {"n_heads": 4, "positions": "learned", "norm": "layer", "mlp": "gelu"},
    "erf": {"n_heads": 4, "positions": "learned", "norm": "layer", "mlp": "gelu", "gelu_tanh": False},
}  # fmt: skip


def make(shape: str, **changes: Any) -> Transformer:
    torch.manual_seed(3)
    config = ModelConfig(
        **{"vocab_size": 101, "hidden_size": 64, "n_layers": 2, "intermediate_size": 96, "max_position": CONTEXT}
        | SHAPES[shape]
        | changes
    )
    model = Transformer(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model.eval()


class Runs:
    """A compiled model with a cache, fed in any cuts."""

    def __init__(self, model: Transformer, max_tokens: int = 512, kv_dtype: torch.dtype = torch.float32) -> None:
        decoder = compile_model(model, max_tokens=max_tokens, max_context=CONTEXT, kv_dtype=kv_dtype)
        assert decoder is not None
        self.decoder, c = decoder, model.config
        self.pages = 4 * -(-CONTEXT // PAGE)
        width = decoder.shape.page_bytes // kv_dtype.itemsize
        self.cache = torch.zeros(c.n_layers, 2, self.pages, width, dtype=kv_dtype)
        self.order = torch.randperm(self.pages, generator=torch.Generator().manual_seed(1)).tolist()

    def table(self, sequence: int) -> list[int]:
        """Pages scattered over the pool, others for each sequence."""
        each = -(-CONTEXT // PAGE)
        return self.order[sequence * each : (sequence + 1) * each]

    def __call__(
        self, parts: list[tuple[int, list[int], int]], adapters: list[LoraWeights | None] | tuple[()] = ()
    ) -> torch.Tensor:
        """parts: (sequence, tokens, position of the first) -> logits of every token, in order."""
        ids = [token for _, tokens, _ in parts for token in tokens]
        positions = [start + i for _, tokens, start in parts for i in range(len(tokens))]
        spans, row = [], 0
        for _, tokens, start in parts:
            spans.append((row, len(tokens), start + len(tokens)))
            row += len(tokens)
        tables = [self.table(sequence) for sequence, _, _ in parts]
        results = self.decoder.step(ids, positions, spans, tables, self.cache, range(len(ids)), adapters=adapters)
        assert results.logits is not None
        best = results.logits.max(dim=-1)
        assert results.best == best.values.tolist() and results.best_ids == best.indices.tolist()
        return results.logits


def tokens(n: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 101, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_model(shape: str) -> None:
    model, ids = make(shape), tokens(330)
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0]
    torch.testing.assert_close(Runs(model)([(0, ids, 0)]), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_weights_are_nearer_to_the_truth_than_torch(shape: str) -> None:
    """Products may round activations to bfloat16 (vdpbf16ps); torch rounds everything between them too."""
    model, ids = make(shape).to(torch.bfloat16), tokens(330)
    with torch.inference_mode():
        theirs = model(torch.tensor([ids]))[0].float()
        expected = model.float()(torch.tensor([ids]))[0]  # weights that both dtypes hold exactly
    ours = Runs(model.to(torch.bfloat16))([(0, ids, 0)])
    assert (ours - expected).norm() < 0.8 * (theirs - expected).norm()


@pytest.mark.parametrize(("kv_dtype", "most"), [(torch.bfloat16, 0.6), (torch.int8, 1.2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_smaller_cache_is_close(shape: str, kv_dtype: torch.dtype, most: float) -> None:
    """Keys and values in fewer bits, held against what bfloat16 everywhere costs."""
    model, ids = make(shape), tokens(330)
    exact, close = Runs(model)([(0, ids, 0)]), Runs(model, kv_dtype=kv_dtype)([(0, ids, 0)])
    with torch.inference_mode():
        everywhere = model.to(torch.bfloat16)(torch.tensor([ids]))[0].float()
    assert 0 < (close - exact).norm() < most * (everywhere - exact).norm()


@pytest.mark.parametrize("shape", ["gqa", "mha", "qk_norm"])
def test_int8_is_close_and_keeps_the_order(shape: str) -> None:
    model = make(shape)
    quantize_(model)
    ids = tokens(120)
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0]
    ours = Runs(model)([(0, ids, 0)])
    error = (ours - expected).norm() / expected.norm()
    assert error < 0.05  # activations are rounded to bytes too
    assert (ours.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_bits_do_not_depend_on_company(shape: str, quantised: bool, kv_dtype: torch.dtype) -> None:
    """One pass, any cuts, one by one, beside others: the same logits to the bit."""
    model = make(shape)
    if quantised:
        quantize_(model)
    ids, other = tokens(300), tokens(300, seed=9)
    whole = Runs(model, kv_dtype=kv_dtype)([(0, ids, 0)])
    cut = Runs(model, kv_dtype=kv_dtype)
    pieces, at = [], 0
    for n in (1, 63, 2, 100, 17, 1, 80, 30, 1, 5):
        pieces.append(cut([(0, ids[at : at + n], at)]))
        at += n
    assert at == 300 and torch.equal(torch.cat(pieces), whole)
    company = Runs(model, kv_dtype=kv_dtype)
    company([(1, other[:250], 0)])
    company([(2, other[:3], 0)])
    company([(0, ids[:290], 0)])
    for i in range(290, 300):
        parts = [(1, other[i - 40 : i - 39], i - 40), (0, ids[i : i + 1], i), (2, other[:7], 3 + 7 * (i - 290))]
        assert torch.equal(company(parts)[1], whole[i])


@pytest.mark.parametrize("shape", ["gqa", "mqa", "window", "learned"])
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_beginning_in_the_same_pages_changes_no_bit(shape: str, kv_dtype: torch.dtype) -> None:
    """Sequences that share pages are looked at together; alone, each in pages of its own, they get the same logits."""
    model = make(shape)
    begin = tokens(528)  # two splits and a page
    own = [tokens(3 + 40 * i, seed=i) for i in range(4)]
    alone = [Runs(model, 768, kv_dtype)([(0, begin + more, 0)])[-1] for more in own]
    run = Runs(model, 768, kv_dtype)
    shared = run.table(0)[: len(begin) // PAGE]
    run([(0, begin, 0)])
    tables = [shared + run.table(1 + i // 2)[20 * (i % 2) :][:20] for i in range(4)]
    run.table = lambda sequence: tables[sequence]  # type: ignore[method-assign]
    for i, more in enumerate(own):
        run([(i, more[:-1], len(begin))])
    together = run([(i, more[-1:], len(begin) + len(more) - 1) for i, more in enumerate(own)])
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_what_others_left_in_a_page_does_not_matter(kv_dtype: torch.dtype) -> None:
    """A request that ended with NaN gives back pages full of it."""
    model, ids = make("gqa"), tokens(90)
    clean, dirty = (Runs(model, kv_dtype=kv_dtype) for _ in range(2))
    dirty.cache.view(torch.uint8).fill_(255)  # NaN as a float, and as the scale of bytes
    for at, n in ((0, 80), (80, 1), (81, 2), (83, 7)):
        parts = [(0, ids[at : at + n], at)]
        assert torch.equal(dirty(parts), clean(parts))


def adapter_of(model: Transformer, **options: Any) -> Any:
    """A random adapter; danlu's families have names for two kinds of block."""
    family = "llama" if model.config.mlp == "swiglu" else "gpt2"
    return make_adapter(model.config.model_copy(update={"family": family}), **options)


@pytest.mark.parametrize(("shape", "rank"), [("gqa", 1), ("mqa", 13), ("mha", 256), ("learned", 5)])
def test_an_adapter_is_the_merged_model(shape: str, rank: int) -> None:
    model = make(shape, intermediate_size=90)
    adapter = adapter_of(model, rank=rank, size=0.5)
    run, ids = Runs(model), tokens(60)
    weights = compile_adapter(run.decoder, adapter)
    beside = torch.cat(
        [run([(0, ids[:57], 0)], [weights]), *(run([(0, ids[i : i + 1], i)], [weights]) for i in (57, 58, 59))]
    )
    plain = run([(1, ids, 0)], [None])
    merge(model, adapter)
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0]
    torch.testing.assert_close(beside, expected, atol=5e-4, rtol=1e-4)
    assert (plain - expected).abs().max() > 0.1


@pytest.mark.parametrize(("shape", "bits"), [("gqa", 0), ("gqa", 8), ("gqa", 4), ("learned", 0)])
def test_bits_with_adapters_do_not_depend_on_company(shape: str, bits: int) -> None:
    """Alone in any cuts, or beside other adapters and none; and without one as if there were none."""
    model = make(shape)
    adapters = [
        adapter_of(model, seed=1, rank=3),
        adapter_of(model, seed=2, rank=20, ends=("q_proj", "up_proj", "c_fc")),
    ]
    if bits:
        quantize_(model, bits)
    ids, other = tokens(80), tokens(80, seed=9)
    run = Runs(model)
    first, second = (compile_adapter(run.decoder, adapter) for adapter in adapters)
    whole = {name: run([(0, ids, 0)], [name]) for name in (first, second, None)}
    assert not torch.equal(whole[first], whole[second]) and torch.equal(whole[None], Runs(model)([(0, ids, 0)]))
    for mine, beside in ((first, second), (second, None), (None, first)):
        run([(1, other[:40], 0), (0, ids[:33], 0)], [beside, mine])
        at = 33
        for n in (1, 2, 30, 1, 13):
            together = run(
                [(1, other[at : at + 1], at + 7), (0, ids[at : at + n], at), (2, other[:n], 0)], [beside, mine, first]
            )
            assert torch.equal(together[1 : 1 + n], whole[mine][at : at + n])
            at += n


def test_a_part_that_does_not_fit_is_refused() -> None:
    shape = Shape(1, 32, 2, 1, 16, 40, 50, 64, "rms", "swiglu", 1e-6, 0.25, 2, 8)  # qkv 64 rows, gate_up 80
    weights = LoraWeights(Decoder(shape))

    def part(layer: int = 0, which: str = "qkv", first: int = 0, rank: int = 4, k: int = 32, n: int = 32) -> None:
        weights.part(layer, which, first, torch.zeros(rank, k), torch.zeros(n, rank))

    for wrong in (
        {"layer": 1},
        {"layer": -1},
        {"which": "head"},
        {"which": "embedding"},
        {"first": -16},
        {"first": 64},
        {"first": 48},
        {"first": 2},  # blocks have 4, 8 or 16 rows
        {"n": 65},
        {"n": 0},
        {"n": 18},
        {"rank": 0},
        {"k": 31},
        {"which": "down"},
        {"which": "gate_up", "n": 80},  # gate and up are two
        {"which": "gate_up", "first": 16, "n": 40},
        {"which": "gate_up", "first": 1 << 20},
    ):
        with pytest.raises(KernelError):
            part(**wrong)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="no product"):
        weights.part(0, "qkv", 0, torch.zeros(4, 32), torch.zeros(32, 5))
    part()
    with pytest.raises(KernelError, match="two parts"):
        part(first=16)
    part(first=32, n=16)
    part(which="gate_up", first=40, n=40)
    part(which="down", k=40)


def test_an_adapter_of_another_model_is_refused() -> None:
    run, other = Runs(make("gqa"), max_tokens=8), Runs(make("mqa"), max_tokens=8)
    foreign = LoraWeights(other.decoder)
    with pytest.raises(KernelError, match="another model"):
        run([(0, [1, 2], 0)], [foreign])
    with pytest.raises(KernelError, match="2 adapters for 1"):
        run([(0, [1, 2], 0)], [None, None])
    assert torch.equal(run([(0, [1, 2], 0)], [LoraWeights(run.decoder)]), run([(0, [1, 2], 0)]))  # an empty one


def test_every_wrong_size_is_refused() -> None:
    shape = Shape(1, 32, 2, 1, 16, 32, 50, 64, "rms", "swiglu", 1e-6, 0.25, 2, 8)
    decoder = Decoder(shape)
    cache = torch.zeros(1, 2, 4, PAGE * 16)
    with pytest.raises(KernelError, match="no weights"):
        decoder.step([1], [0], [(0, 1, 1)], [[0]], cache, [0])
    with pytest.raises(KernelError, match="another shape"):
        decoder.matrix(0, "qkv", torch.zeros(63, 32))
    with pytest.raises(KernelError, match="no such matrix"):
        decoder.matrix(7, "qkv", torch.zeros(64, 32))
    with pytest.raises(KernelError, match="another length"):
        decoder.vector(0, "attention_norm", torch.zeros(31))
    with pytest.raises(KernelError, match="scales"):
        decoder.matrix(0, "qkv", torch.zeros(64, 32, dtype=torch.int8), torch.ones(63))
    for changes in ({"head_dim": 17}, {"heads": 3, "kv_heads": 2}, {"layers": 0}, {"max_tokens": 0}):
        with pytest.raises(KernelError):
            Decoder(Shape(**{**shape.__dict__, **changes}))


def test_a_step_that_does_not_fit_is_refused() -> None:
    model = make("gqa")
    run = Runs(model, max_tokens=8)
    good: dict[str, Any] = {
        "ids": [1, 2], "positions": [0, 1], "spans": [(0, 2, 2)], "tables": [[0]], "cache": run.cache, "rows": [1],
    }  # fmt: skip
    run.decoder.step(**good)
    for changes in (
        {"ids": [1, 101]},
        {"ids": [1, -1]},
        {"positions": [0, CONTEXT]},
        {"rows": [2]},
        {"rows": [-1]},
        {"spans": [(0, 1, 1)]},
        {"spans": [(0, 3, 3)]},
        {"spans": [(0, 2, 1)]},
        {"spans": [(1, 1, 1)]},
        {"spans": [(0, 2, CONTEXT + 1)], "tables": [list(range(60))]},
        {"tables": [[run.pages]]},
        {"tables": [[-1]]},
        {"tables": [[]]},
        {"tables": []},
        {"ids": list(range(9)), "positions": list(range(9)), "spans": [(0, 9, 9)]},
        {"cache": run.cache.double()},
        {"cache": run.cache[:, :, :, ::2]},
    ):
        with pytest.raises(KernelError):
            run.decoder.step(**{**good, **changes})
    run.decoder.step(**good)  # and it goes on

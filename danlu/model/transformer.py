"""The decoder: one definition for every family, for training and for serving.

    ids [B, T] -> embedding -> n_layers blocks -> norm -> head -> logits [B, T, V]

`hidden` stops before the head. Training does not call `forward`: the logits of a whole batch are its largest
tensor by far (V is 16 to 1000 times D), so the loss takes `hidden` and `head_weight` and goes piece by piece; the
engine calls `head` on the last token of each sequence only.

Positions and context are arguments. Without them a row is one sequence that starts at position 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from danlu.core.errors import UserError
from danlu.model.attention import Attention, CausalContext, Context
from danlu.model.config import ModelConfig
from danlu.model.layers import Embedding, LayerNorm, Linear, RMSNorm, add_norm, make_mlp, make_norm
from danlu.model.rope import Rotary


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer_index)
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config)

    def forward(
        self, x: Tensor, added: Tensor | None, rotary: tuple[Tensor, Tensor] | None, context: Context
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, D], and what the block before left to add to it; returns both for the next one.

        A sum and the norm that reads it are one step (`add_norm`), hence the sum that is left open.
        """
        x, normed = add_norm(self.attention_norm, x, added)
        x, normed = add_norm(self.mlp_norm, x, self.attention(normed, rotary, context))
        return x, self.mlp(normed)


class Transformer(nn.Module):
    """A decoder of the shape `config` says. New ones are initialised from torch's random generator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.position_embedding = Embedding(config.max_position, config.hidden_size) if learned else None
        self.rotary = None if learned else Rotary(config)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.n_layers))
        self.norm = make_norm(config)
        tied = config.tie_embeddings
        self.lm_head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=False)
        if not self.embedding.weight.is_meta:  # a model about to be loaded has no numbers, and drawing none is slow
            self.initialise()

    def forward(self, ids: Tensor, positions: Tensor | None = None, context: Context | None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V]. positions [B, T] or [T], default 0..T-1; context default CausalContext."""
        return self.head(self.hidden(ids, positions, context))

    def hidden(self, ids: Tensor, positions: Tensor | None = None, context: Context | None = None) -> Tensor:
        """ids [B, T] -> [B, T, D], after the last norm. Raises UserError past the end of learned positions."""
        length = ids.shape[1]
        context = CausalContext() if context is None else context
        x = self.embedding(ids).to(self.norm.weight.dtype)  # [B, T, D]; a quantised one has its own
        rotary = None
        if self.rotary is not None:
            rotary = self.rotary.tables(positions, length, ids.device)
        elif self.position_embedding is not None:
            x = x + self._learned_positions(self.position_embedding, positions, length, ids.device)
        added = None
        for block in self.blocks:
            x, added = block(x, added, rotary, context)
        return self.norm(x if added is None else x + added)

    def head(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., V]."""
        return self.embedding.project(hidden) if self.lm_head is None else self.lm_head(hidden)

    @property
    def head_weight(self) -> Tensor:
        """The matrix of the head, [V, D]: the embedding itself where they are tied."""
        return self.embedding.weight if self.lm_head is None else self.lm_head.weight

    def _learned_positions(
        self, table: Embedding, positions: Tensor | None, length: int, device: torch.device
    ) -> Tensor:
        if positions is None:
            if length > self.config.max_position:
                raise UserError(
                    f"{length} tokens do not fit a model with {self.config.max_position} learned positions",
                    "shorten the input",
                )
            positions = torch.arange(length, device=device)
        return table(positions)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Give every parameter its first value. All of initialisation is here.

        | parameter                             | value                                                         |
        |---------------------------------------|---------------------------------------------------------------|
        | embedding, position_embedding         | normal, std 0.02 (GPT-2)                                      |
        | lm_head (untied)                      | normal, std 0.02                                              |
        | attention.qkv, mlp.gate_up, mlp.up    | normal, std 1 / sqrt(D): unit-variance input, unit-variance   |
        |                                       | output                                                        |
        | attention.out, mlp.down               | normal, std 1 / sqrt(fan-in) / sqrt(2 n_layers): 2 n_layers   |
        |                                       | of these are summed in the residual stream (GPT-2, sec. 2.3)  |
        | norm weights                          | 1                                                             |
        | biases                                | 0                                                             |
        """
        residual = (2 * self.config.n_layers) ** -0.5
        for name, module in self.named_modules():
            if isinstance(module, Embedding) or name == "lm_head":
                nn.init.normal_(module.weight, std=0.02, generator=generator)
            elif isinstance(module, Linear):
                share = residual if name.endswith(("attention.out", "mlp.down")) else 1.0
                nn.init.normal_(module.weight, std=module.in_features**-0.5 * share, generator=generator)
            elif isinstance(module, RMSNorm | LayerNorm):
                nn.init.ones_(module.weight)
            if isinstance(module, Linear | LayerNorm) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def splits(self, name: str, parameter: Tensor) -> tuple[int, ...]:
        """The row counts of the matrices stored in one parameter: (q, k, v), (gate, up), or all rows as one.

        What is fused for speed is still several matrices to an optimiser, an adapter or a file.
        """
        rows = fused_rows(self.config, name.rpartition(".")[0]) or (parameter.shape[0],)
        return rows if sum(rows) == parameter.shape[0] else (parameter.shape[0],)  # a factor that they share

    @property
    def n_params(self) -> int:
        """Trained numbers; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def n_matmul_params(self) -> int:
        """Weights that every token is multiplied with: all matrices of the blocks, and the head.

        A tied embedding counts (it is the head); an untied one and learned positions do not, they are looked up.
        """
        c = self.config
        attention = c.hidden_size * sum(c.qkv_sizes) + c.n_heads * c.head_dim * c.hidden_size
        mlp = (3 if c.mlp == "swiglu" else 2) * c.hidden_size * c.intermediate_size
        return c.n_layers * (attention + mlp) + c.vocab_size * c.hidden_size

    def flops_per_token(self, context_length: int) -> float:
        """Floating-point operations to train on one token in a sequence of `context_length`.

            6 N + 12 H hd sum over layers of (mean number of tokens a token sees)

        N is `n_matmul_params`: a multiply and an add forward, twice that backward (Kaplan et al., arXiv:2001.08361,
        sec. 2.1; with the head counted, as it is a matrix product like the others). Attention does q k^T and
        p v, 2 x 2 H hd operations per visible token forward, three times that with the backward pass (PaLM,
        arXiv:2204.02311, appendix B, which takes all T tokens as visible). Here only what the causal mask and the
        window let through counts, (T + 1) / 2 without a window: a kernel that skips the masked half is not
        credited for it. A forward pass alone is a third.
        """
        c = self.config
        seen = 0.0
        for layer in range(c.n_layers):
            reach = min(c.window(layer) or context_length, context_length)
            seen += (reach * (reach + 1) / 2 + (context_length - reach) * reach) / context_length
        return 6.0 * self.n_matmul_params + 12.0 * c.n_heads * c.head_dim * seen


def fused_rows(config: ModelConfig, module: str) -> tuple[int, ...] | None:
    """Row counts of the matrices joined in a module, by its path ("blocks.3.attention.qkv"); None if it is one."""
    if module.endswith("attention.qkv"):
        return config.qkv_sizes
    if module.endswith("mlp.gate_up"):
        return config.intermediate_size, config.intermediate_size
    return None

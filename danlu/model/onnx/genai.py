"""genai_config.json: what onnxruntime-genai, the generation loop around onnxruntime, reads beside the graph.

Source: its configuration reference, onnxruntime.ai/docs/genai/reference/config.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.model.config import ModelConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # its gpt2 has key and value in one tensor


def genai_config(config: ModelConfig, ids: Mapping[str, Any]) -> dict[str, Any] | None:
    """`ids` as in generation_config.json. None for a family that onnxruntime-genai feeds in another way than ours."""
    if config.family not in FAMILIES:
        return None
    end = ids.get("eos_token_id", 0)
    instead = end[0] if isinstance(end, list) else end  # it insists on all three
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": config.head_dim,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "num_hidden_layers": config.n_layers,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    return {
        "model": {
            "bos_token_id": ids.get("bos_token_id", instead),
            "eos_token_id": end,
            "pad_token_id": ids.get("pad_token_id", instead),
            "type": config.family,
            "vocab_size": config.vocab_size,
            "context_length": config.max_position,
            "decoder": decoder,
        },
        "search": {
            "do_sample": False,
            "max_length": config.max_position,
            "past_present_share_buffer": False,  # our cache grows by a Concat
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }

"""Maps llama.cpp's names of Qwen3's tensors to those of Qwen's releases.

Rows have the same order in both: llama.cpp rotates halves of Qwen3's heads, as Qwen's code does, so
its converter permutes nothing (unlike for Llama). Experts are stacked in both.
"""

from __future__ import annotations

import re

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.switch_mlp.gate_proj",
    "ffn_up_exps": "mlp.switch_mlp.up_proj",
    "ffn_down_exps": "mlp.switch_mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def module_path(name: str) -> str | None:
    """The module path of llama.cpp's weight `name`; None if Qwen3 has no such module."""
    if match := _LAYER.fullmatch(name):
        module = _IN_LAYER.get(match[2])
        return None if module is None else f"model.layers.{int(match[1])}.{module}"
    return _WHOLE.get(name.removesuffix(".weight")) if name.endswith(".weight") else None

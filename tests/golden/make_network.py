"""Make tests/golden/network/: tiny random Qwen3 checkpoints and transformers' logits for them.

    python -m venv golden && golden/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors
    golden/bin/python tests/golden/make_network.py

Each case is a directory with a config.json (as transformers 5 writes it, or spelled as Qwen's
releases are), float32 weights under the Hub's names, and expected.npz: `tokens` [2, L], `logits`
[2, L, V] in float32 by eager attention, and for information `floor`, the NMSE of these logits
against the same network with float64 products.

The weights are not what training gives: they are drawn so that every parameter and every number
of the config moves the logits. Residual streams are small enough for eps to count in every norm,
q/k norms are spiky, and embedding rows differ in size. This script fails where that does not
hold, and where a router's choice is so close that rounding could change it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

OUT = Path(__file__).parent / "network"

DENSE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 28,
    "vocab_size": 97,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "rope_theta": 1e6,
}
MOE = DENSE | {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "norm_topk_prob": True,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
PAST_NATIVE = 80


@dataclass
class Case:
    """One checkpoint: `size` overrides DENSE or MOE; `old` spells config.json as Qwen does."""

    size: dict[str, Any] = field(default_factory=dict)
    moe: bool = False
    length: int = 20
    yarn: dict[str, Any] | None = None
    old: bool = False
    shards: int = 1

    def numbers(self) -> dict[str, Any]:
        """Return the case's dimensions by their config.json names."""
        return (MOE if self.moe else DENSE) | self.size


def gqa(heads: int, kv_heads: int) -> dict[str, int]:
    """Return sizes for one ratio; two kv heads or more, else tiling them would go unnoticed."""
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 8}


CASES = {
    "dense-tied": Case(
        {"tie_word_embeddings": True, "hidden_size": 64, "intermediate_size": 64}, old=True
    ),
    "dense-untied": Case({"rms_norm_eps": 1e-5, "num_hidden_layers": 3}),
    "dense-one-layer": Case(
        {"num_hidden_layers": 1, "tie_word_embeddings": True, "vocab_size": 160}
    ),
    "gqa-1": Case(gqa(4, 4)),
    "gqa-2": Case(gqa(8, 4), old=True),
    "gqa-5": Case(gqa(10, 2) | {"hidden_size": 40}),
    "gqa-8": Case(gqa(16, 2)),
    "gqa-16": Case(gqa(32, 2) | {"tie_word_embeddings": True}),
    "head-dim-wider": Case({"head_dim": 32, "rope_theta": 5e6}, old=True),
    "head-dim-narrower": Case({"hidden_size": 40, "head_dim": 6, "rope_theta": 1e7}),
    "yarn-dense-new": Case({"head_dim": 32, "rope_theta": 1e4}, yarn=YARN, length=PAST_NATIVE),
    "yarn-dense-old": Case(yarn=YARN, length=PAST_NATIVE, old=True),
    "yarn-dense-ramp": Case(
        {"head_dim": 32, "rope_theta": 100.0},
        yarn=YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "attention_factor": 1.25},
        length=PAST_NATIVE,
    ),
    "moe-norm": Case(
        {"hidden_size": 32, "moe_intermediate_size": 32, "num_experts": 6}, moe=True, old=True
    ),
    "moe-no-norm": Case({"norm_topk_prob": False, "num_experts_per_tok": 3}, moe=True),
    "moe-mlp-only-layers": Case({"num_hidden_layers": 3, "mlp_only_layers": [1]}, moe=True),
    "moe-sparse-step-2": Case(
        {"num_hidden_layers": 3, "decoder_sparse_step": 2}, moe=True, old=True
    ),
    "moe-tied-top-1": Case(
        {"num_experts_per_tok": 1, "norm_topk_prob": False, "tie_word_embeddings": True}, moe=True
    ),
    "moe-all-experts": Case({"num_experts": 3, "num_experts_per_tok": 3} | gqa(16, 2), moe=True),
    "yarn-moe-new": Case({"rope_theta": 1e4}, moe=True, yarn=YARN, length=PAST_NATIVE),
    "yarn-moe-old": Case(
        {"head_dim": 32, "rope_theta": 1e4}, moe=True, yarn=YARN, length=PAST_NATIVE, old=True
    ),
    "sharded-dense": Case({"tie_word_embeddings": True}, shards=2),
    "sharded-moe": Case(moe=True, shards=3, old=True),
}


def hf_config(case: Case) -> Qwen3Config | Qwen3MoeConfig:
    """Return the case as transformers' own configuration."""
    sizes = {"rms_norm_eps": 1e-6} | case.numbers()
    rope = {"rope_type": "default", "rope_theta": sizes.pop("rope_theta")} | (case.yarn or {})
    kind = Qwen3MoeConfig if case.moe else Qwen3Config
    config = kind(**sizes, rope_parameters=rope, attention_bias=False)
    config.architectures = [("Qwen3Moe" if case.moe else "Qwen3") + "ForCausalLM"]
    config.dtype = torch.float32
    return config


def released_spelling(config: Qwen3Config | Qwen3MoeConfig) -> dict[str, Any]:
    """Return config.json with the keys of Qwen's releases (written by transformers 4.51)."""
    rope = dict(config.rope_parameters)
    theta, kind = rope.pop("rope_theta"), rope["rope_type"]
    odd = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "max_window_layers": config.num_hidden_layers,
        "rope_scaling": None if kind == "default" else rope,
        "rope_theta": theta,
        "torch_dtype": "float32",
        "transformers_version": "4.51.0",
    }
    keys = RELEASED_KEYS + (RELEASED_MOE_KEYS if config.model_type == "qwen3_moe" else ())
    return {key: odd[key] if key in odd else getattr(config, key) for key in keys}


RELEASED_KEYS = (
    *("architectures", "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id"),
    *("head_dim", "hidden_act", "hidden_size", "initializer_range", "intermediate_size"),
    *("max_position_embeddings", "max_window_layers", "model_type", "num_attention_heads"),
    *("num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_scaling", "rope_theta"),
    *("sliding_window", "tie_word_embeddings", "torch_dtype", "transformers_version"),
    *("use_cache", "use_sliding_window", "vocab_size"),
)
RELEASED_MOE_KEYS = (
    *("decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob"),
    *("num_experts", "num_experts_per_tok", "output_router_logits", "router_aux_loss_coef"),
)


def tensor_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return every tensor of the checkpoint by its name on the Hub."""
    hidden, dim, vocab = c["hidden_size"], c["head_dim"], c["vocab_size"]
    q, kv = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}"
        rows = {"q": q, "k": kv, "v": kv}
        shapes |= {f"{p}.self_attn.{n}_proj.weight": (rows[n], hidden) for n in "qkv"}
        shapes |= {f"{p}.self_attn.o_proj.weight": (hidden, q)}
        shapes |= {f"{p}.self_attn.{n}_norm.weight": (dim,) for n in "qk"}
        shapes |= {f"{p}.{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
        if is_moe(c, i):
            shapes[f"{p}.mlp.gate.weight"] = (c["num_experts"], hidden)
            for e in range(c["num_experts"]):
                shapes |= mlp_shapes(f"{p}.mlp.experts.{e}", c["moe_intermediate_size"], hidden)
        else:
            shapes |= mlp_shapes(f"{p}.mlp", c["intermediate_size"], hidden)
    shapes["model.norm.weight"] = (hidden,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def is_moe(c: dict[str, Any], layer: int) -> bool:
    """Return whether the layer has experts (stated here apart from the package's own rule)."""
    if "num_experts" not in c or layer in c.get("mlp_only_layers", []):
        return False
    return (layer + 1) % c.get("decoder_sparse_step", 1) == 0


def mlp_shapes(prefix: str, inner: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the three matrices of one SwiGLU."""
    shapes = {f"{prefix}.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
    return shapes | {f"{prefix}.down_proj.weight": (hidden, inner)}


def draw(name: str, shape: tuple[int, ...], dim: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one tensor so that each of its numbers, and each eps after it, counts in the logits."""
    w = rng.normal(size=shape)
    if "q_norm" in name or "k_norm" in name:
        w = np.exp(0.5 * w)  # spiky
    elif "norm" in name:
        w = 1 + 0.3 * w
    elif "embed_tokens" in name:
        w *= 10 ** rng.uniform(-3, -1.5, size=(shape[0], 1))
    elif "o_proj" in name or "down_proj" in name:
        w *= 0.0005  # the residual stream stays near sqrt(eps)
    else:
        w *= 0.3
    if "q_proj" in name or "k_proj" in name:
        w[-dim:] *= 1e-3  # one head's norm works near sqrt(eps)
    return w.astype(np.float32)


def write(directory: Path, case: Case, seed: int) -> None:
    """Write config.json and the safetensors of one case."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config = hf_config(case)
    if case.old:
        text = json.dumps(released_spelling(config), indent=1)
        (directory / "config.json").write_text(text + "\n")
    else:
        config.save_pretrained(directory)
    rng, c = np.random.default_rng(seed), case.numbers()
    tensors = {n: draw(n, s, c["head_dim"], rng) for n, s in tensor_shapes(c).items()}
    if case.shards == 1:
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        return
    index: dict[str, str] = {}
    for i in range(case.shards):  # dealt like cards: every layer is spread over all shards
        file = f"model-{i + 1:05d}-of-{case.shards:05d}.safetensors"
        part = {n: w for j, (n, w) in enumerate(tensors.items()) if j % case.shards == i}
        save_file(part, directory / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(w.nbytes for w in tensors.values())
    both = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(both, indent=1) + "\n")


def load(directory: Path) -> torch.nn.Module:
    """Load the directory the way transformers' users do, with the plainest kernels."""
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        config=AutoConfig.from_pretrained(directory),
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    return model.eval()


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """Return logits [B, L, V]."""
    return model(torch.from_numpy(tokens), use_cache=False).logits.numpy()


def main() -> None:
    """Make every case, from the first seed whose routing is unambiguous."""
    from network_checks import routing_margin, sensitivity

    torch.set_num_threads(1)
    for number, (name, case) in enumerate(CASES.items()):
        for seed in range(1000 * number, 1000 * number + 100):
            write(OUT / name, case, seed)
            model = load(OUT / name)
            vocab = case.numbers()["vocab_size"]
            tokens = np.random.default_rng(seed + 500).integers(0, vocab, (2, case.length))
            margin = routing_margin(model, tokens)
            if margin >= 1e-3:
                break
        else:
            raise SystemExit(f"{name}: no seed routes clearly")
        want = logits(model, tokens)
        weakest = sensitivity(model, tokens, want)
        exact = logits(load(OUT / name).double(), tokens)
        floor = float(np.sum((want - exact) ** 2) / np.sum(exact**2))
        np.savez_compressed(
            OUT / name / "expected.npz", tokens=tokens.astype(np.int32), logits=want, floor=floor
        )
        print(f"{name:20} seed {seed:5} margin {margin:.1e} floor {floor:.1e} weakest {weakest}")


if __name__ == "__main__":
    main()

"""Make tests/golden/adapters/: LoRA adapters as PEFT saves them, and the logits PEFT computes.

    python -m venv golden && golden/bin/pip install torch==2.13.0 transformers==5.24.0 peft==0.21.2
    golden/bin/python tests/golden/make_adapters.py

Each case is a directory with adapter_config.json and adapter_model.safetensors for one of the
checkpoints of tests/golden/network, and expected.npz: `tokens` [2, L] and `logits` [2, L, V] in
float32. The case `moe-single-experts` is spelled as PEFT spelled it beside transformers 4, which
has experts one by one; its logits are those of the checkpoint with each product added to it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file

from tests.golden.make_network import OUT as NETWORKS
from tests.golden.make_network import load, logits

OUT = Path(__file__).parent / "adapters"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
REGEX = r"model\.layers\.\d+\.self_attn\.(q|v)_proj"


@dataclass
class Case:
    """An adapter: the checkpoint it belongs to, and what PEFT is told."""

    base: str
    lora: dict[str, Any] = field(default_factory=dict)


CASES = {
    "plain": Case("dense-tied", {"r": 4, "lora_alpha": 6, "target_modules": ALL}),
    "rslora-head": Case(
        "dense-untied",
        {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": [*ALL, "lm_head"]},
    ),
    "patterns": Case(
        "dense-untied",
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "o_proj", "down_proj"],
            "rank_pattern": {"o_proj": 2, r"layers\.1\.mlp\.down_proj": 5},
            "alpha_pattern": {r"layers\.0\..*": 3, "down_proj": 20},
        },
    ),
    "regex": Case("gqa-2", {"r": 2, "lora_alpha": 7, "target_modules": REGEX}),
    "some-layers": Case(
        "dense-untied",
        {"r": 2, "lora_alpha": 4, "target_modules": ["up_proj"], "layers_to_transform": [1]},
    ),
    "moe-attention": Case(
        "moe-norm", {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
    ),
    "moe-parameters": Case(
        "moe-no-norm",
        {
            "r": 3,
            "lora_alpha": 6,
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
}
SINGLE_BASE = "moe-no-norm"


def tokens_of(base: str) -> np.ndarray:
    """Return the tokens of the checkpoint's own golden."""
    with np.load(NETWORKS / base / "expected.npz") as file:
        return file["tokens"].astype(np.int64)


@torch.no_grad()
def draw(model: torch.nn.Module, seed: int) -> None:
    """Give every factor numbers: PEFT begins with B = 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            small = 0.02 if "o_proj" in name or "down_proj" in name or "experts" in name else 0.3
            weight.copy_(small * torch.randn(weight.shape, generator=generator))


def make(name: str, case: Case, seed: int) -> None:
    """Write one case with PEFT; fail where the adapter changes nothing."""
    tokens = tokens_of(case.base)
    base = load(NETWORKS / case.base)
    before = logits(base, tokens)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **case.lora)).eval()
    draw(model, seed)
    model.save_pretrained(OUT / name)
    # what PEFT makes of the files: it saves patterns sorted, and the first that fits wins
    again = PeftModel.from_pretrained(load(NETWORKS / case.base), OUT / name).eval()
    after = logits(again, tokens)
    finish(name, case.base, tokens, before, after)


def finish(name: str, base: str, tokens: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    """Write what is expected, and a config.json that doesn't name this machine."""
    changed = float(np.sum((after - before) ** 2) / np.sum(before**2))
    if not changed > 1e-4:
        raise SystemExit(f"{name}: the adapter changes next to nothing ({changed:.1e})")
    np.savez_compressed(
        OUT / name / "expected.npz", tokens=tokens.astype(np.int32), logits=after, base=base
    )
    file = OUT / name / "adapter_config.json"
    values = json.loads(file.read_text()) | {"base_model_name_or_path": base}
    if isinstance(values["target_modules"], list):
        values["target_modules"].sort()  # PEFT keeps a set
    file.write_text(json.dumps(values, indent=1) + "\n")
    (OUT / name / "README.md").unlink(missing_ok=True)
    print(f"{name:20} changes the logits by {changed:.1e}")


def make_single(name: str, seed: int) -> None:
    """Write the case of experts one by one; expert 1 of each layer stays as it is."""
    source, rng = NETWORKS / SINGLE_BASE, np.random.default_rng(seed)
    weights = load_file(source / "model.safetensors")
    tokens, rank, alpha = tokens_of(SINGLE_BASE), 3, 4.5
    ranks = {"up_proj": 2}
    factors = {}
    for path in [n.removesuffix(".weight") for n in weights if ".experts." in n]:
        if ".experts.1." in path:
            continue
        r = ranks.get(path.rpartition(".")[2], rank)
        rows, columns = weights[f"{path}.weight"].shape
        a, b = (0.2 * rng.normal(size=s).astype(np.float32) for s in ((r, columns), (rows, r)))
        b *= 0.1 if "down_proj" in path else 1
        factors |= {f"base_model.model.{path}.lora_{n}.weight": m for n, m in (("A", a), ("B", b))}
        product = alpha / r * (b.astype(np.float64) @ a)
        weights[f"{path}.weight"] = (weights[f"{path}.weight"] + product).astype(np.float32)
    (OUT / name).mkdir(parents=True)
    save_file(factors, OUT / name / "adapter_model.safetensors")
    values = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": ["gate_proj", "up_proj", "down_proj"],
        "rank_pattern": ranks,
    }
    (OUT / name / "adapter_config.json").write_text(json.dumps(values))
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(shutil.copytree(source, Path(folder) / "merged"))
        save_file(weights, merged / "model.safetensors", {"format": "pt"})
        after = logits(load(merged), tokens)
    finish(name, SINGLE_BASE, tokens, logits(load(source), tokens), after)


def main() -> None:
    """Make every case."""
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    for seed, (name, case) in enumerate(CASES.items()):
        make(name, case, seed)
    make_single("moe-single-experts", len(CASES))


if __name__ == "__main__":
    main()

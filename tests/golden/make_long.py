"""Make tests/golden/long/: tiny YaRN checkpoints, and how far transformers is off at 131,072.

    python -m venv golden && golden/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors
    golden/bin/python tests/golden/make_long.py

Each case is a directory like those of make_network.py, with the factor and native length that
Qwen's documentation gives. Its expected.npz has `tokens` [L], `positions` [L] (three runs, the
last one ending at 131,071), `logits` [L, V] in float64 (float64.py), and `error`, transformers'
own float32 error against them: the root of the summed squares, relative.
"""

from __future__ import annotations

import json
from pathlib import Path

import float64
import numpy as np
import torch
from make_network import Case, load, write
from network_checks import routing_margin
from safetensors.numpy import load_file

OUT = Path(__file__).parent / "long"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
SIZE = {"max_position_embeddings": 32768, "head_dim": 64, "vocab_size": 61}
CASES = {
    "dense": Case(SIZE | {"num_hidden_layers": 3}, yarn=YARN),
    "dense-tied": Case(
        SIZE | {"tie_word_embeddings": True, "head_dim": 128, "num_hidden_layers": 1}, yarn=YARN
    ),
    "moe": Case(SIZE, moe=True, yarn=YARN),
    "moe-theta": Case(SIZE | {"rope_theta": 1e7}, moe=True, yarn=YARN),
}
RUN = 12
POSITIONS = np.concatenate([start + np.arange(RUN) for start in (0, 65_530, 131_072 - RUN)])


@torch.no_grad()
def transformers_logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """Logits [L, V] in float32. A mask of ones, or the jumps would be taken for packed texts."""
    out = model(
        torch.from_numpy(tokens)[None],
        position_ids=torch.from_numpy(POSITIONS)[None],
        attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
        use_cache=False,
    )
    return out.logits[0].numpy()


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Root of the summed squares of the error, relative."""
    return float(np.sqrt(np.sum((got - want) ** 2) / np.sum(want**2)))


def main() -> None:
    """Make every case, from the first seed whose routing is unambiguous."""
    torch.set_num_threads(1)
    for number, (name, case) in enumerate(CASES.items()):
        for seed in range(5000 + 100 * number, 5100 + 100 * number):
            write(OUT / name, case, seed)
            model = load(OUT / name)
            tokens = np.random.default_rng(seed).integers(0, 61, len(POSITIONS))
            if routing_margin(model, tokens[None]) >= 1e-3:
                break
        config = json.loads((OUT / name / "config.json").read_text())
        weights = load_file(OUT / name / "model.safetensors")
        want = float64.logits(weights, config, tokens, POSITIONS)
        error = relative(transformers_logits(model, tokens), want)
        assert error < 1e-2, f"{name}: transformers and float64.py disagree by {error}"
        near = relative(float64.logits(weights, config, tokens, np.arange(len(tokens))), want)
        assert near > 0.05, f"{name}: positions hardly matter ({near})"
        np.savez_compressed(
            OUT / name / "expected.npz",
            tokens=tokens.astype(np.int32), positions=POSITIONS, logits=want, error=error,
        )  # fmt: skip
        print(f"{name:12} seed {seed} transformers' error {error:.2e}, other positions {near:.2f}")


if __name__ == "__main__":
    main()

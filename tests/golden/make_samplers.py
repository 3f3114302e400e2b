"""Make tests/golden/samplers.npz: 200 random cases of sampling and transformers' distributions.

    python -m venv golden && golden/bin/pip install torch==2.13.0 transformers==5.23.0
    golden/bin/python tests/golden/make_samplers.py

A case is logits [B, V] (int16, in units of 1/256, so that ties are exact), which tokens stand in
prompt and answer (`seen`) and in the answer alone (`generated`), the six numbers of a `Sampling`,
and the probabilities [B, V] that transformers' processors leave, in the order in which
`GenerationMixin._get_logits_processor` puts them, computed in float64. transformers has no presence
penalty; the one here is the formula of the OpenAI API, put behind the repetition penalty.

All arrays are stored flat; `shape` [N, 2] says how to cut them. Where top_p cuts between equal
logits, which of them survive is a matter of the sort; `tied` marks these cases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

OUT = Path(__file__).parent / "samplers.npz"
CASES = 200
FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
)
MARGIN = 1e-5  # how far every kept and dropped token must be from its threshold


class PresencePenalty(LogitsProcessor):
    """Subtract the penalty once from every token that was generated."""

    def __init__(self, penalty: float, generated: torch.Tensor) -> None:
        self.penalty, self.generated = penalty, generated

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the new scores [B, V]."""
        return scores - self.penalty * self.generated.to(scores.dtype)


def processors(p: dict[str, float], generated: torch.Tensor) -> LogitsProcessorList:
    """Return what `generate` would apply, leaving out whatever is off, as it does."""
    chain = LogitsProcessorList()
    if p["repetition_penalty"] != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(p["repetition_penalty"]))
    if p["presence_penalty"] != 0.0:
        chain.append(PresencePenalty(p["presence_penalty"], generated))
    if p["temperature"] != 1.0:
        chain.append(TemperatureLogitsWarper(p["temperature"]))
    if p["top_k"] != 0:
        chain.append(TopKLogitsWarper(int(p["top_k"])))
    if p["top_p"] < 1.0:
        chain.append(TopPLogitsWarper(p["top_p"]))
    if p["min_p"] > 0.0:
        chain.append(MinPLogitsWarper(p["min_p"]))
    return chain


def draw_numbers(rng: np.random.Generator, vocab: int) -> dict[str, float]:
    """Draw the numbers of a `Sampling`, each off in a good part of the cases."""
    return {
        "temperature": float(rng.choice([0.3, 0.6, 0.7, 1.0, 1.0, 1.4, 2.0])),
        "top_p": float(rng.choice([1.0, 1.0, 0.95, 0.8, 0.5, 0.1, 1e-3])),
        "top_k": float(rng.choice([0, 0, 1, 2, 5, 20, 20, vocab, vocab + 7])),
        "min_p": float(rng.choice([0.0, 0.0, 0.0, 0.02, 0.1, 0.3, 1.0])),
        "presence_penalty": float(rng.choice([0.0, 0.0, 0.5, 1.5, 2.0, -1.0])),
        "repetition_penalty": float(rng.choice([1.0, 1.0, 1.05, 1.3, 0.8])),
    }


def draw(seed: int) -> dict[str, Any]:
    """Draw one case: logits, masks, numbers."""
    rng = np.random.default_rng(seed)
    batch, vocab = int(rng.integers(1, 4)), int(rng.choice([5, 6, 17, 64, 151, 500]))
    logits = np.round(rng.normal(size=(batch, vocab)) * rng.choice([1, 3, 5]) * 256)
    if rng.random() < 0.3:  # coarse, so that many are equal
        logits = np.round(logits / 256) * 256
    ids = rng.integers(0, vocab, (batch, int(rng.integers(1, vocab))))
    prompt = int(rng.integers(0, ids.shape[1] + 1))
    return {
        "logits": logits.astype(np.int16),
        "ids": ids,
        "seen": mask(ids, vocab),
        "generated": mask(ids[:, prompt:], vocab),
        "numbers": draw_numbers(rng, vocab),
    }


def mask(ids: np.ndarray, vocab: int) -> np.ndarray:
    """Return [B, V]: whether a row of `ids` holds the token."""
    out = np.zeros((len(ids), vocab), bool)
    np.put_along_axis(out, ids, True, axis=1)
    return out


def probabilities(case: dict[str, Any], dtype: torch.dtype) -> np.ndarray:
    """Return transformers' distribution [B, V], computed in `dtype`."""
    scores = torch.from_numpy(case["logits"].astype(np.float64) / 256).to(dtype)
    chain = processors(case["numbers"], torch.from_numpy(case["generated"]))
    return torch.softmax(chain(torch.from_numpy(case["ids"]), scores), dim=-1).numpy()


def thresholds(case: dict[str, Any]) -> tuple[float, bool]:
    """Return how near a token is to the edge of top_p or min_p, and whether top_p cuts a tie."""
    p, nearest, tied = case["numbers"], np.inf, False
    before = {**case, "numbers": p | {"top_p": 1.0, "min_p": 0.0}}
    kept = probabilities(before, torch.float64)
    if p["top_p"] < 1.0:
        ranked = np.sort(kept, axis=-1)
        below = np.cumsum(ranked, axis=-1)
        edge = 1 - p["top_p"]
        nearest = float(np.abs(below - edge)[ranked > 0].min())
        first = np.minimum((below <= edge).sum(axis=-1), ranked.shape[-1] - 1)
        lowest = np.take_along_axis(ranked, first[:, None], axis=-1)
        tied = bool((((ranked == lowest) & (below <= edge)).any(axis=-1)).any())
    if p["min_p"] > 0.0:
        after = probabilities({**case, "numbers": p | {"min_p": 0.0}}, torch.float64)
        share = after / after.max(axis=-1, keepdims=True)
        gap = np.abs(share - p["min_p"])[(share > 0) & (share < 1)]
        nearest = min(nearest, float(gap.min(initial=np.inf)))
    return nearest, tied


def main() -> None:
    """Draw cases until 200 of them are clear of all thresholds."""
    cases, tied, seed, noise = [], [], 0, 0.0
    while len(cases) < CASES:
        case, seed = draw(seed), seed + 1
        nearest, cuts_tie = thresholds(case)
        if nearest < MARGIN:
            continue
        case["probabilities"] = probabilities(case, torch.float64)
        single = probabilities(case, torch.float32)
        if not cuts_tie:
            gap = np.abs(single - case["probabilities"]).sum(axis=-1).max() / 2
            noise = max(noise, float(gap))
        cases.append(case)
        tied.append(cuts_tie)
    assert noise < 5e-7, f"float32 itself is {noise:.1e} away"
    assert 5 <= sum(tied) <= 40, sum(tied)
    for name in FIELDS:
        assert len({case["numbers"][name] for case in cases}) >= 4, name
    np.savez_compressed(
        OUT,
        shape=np.array([case["logits"].shape for case in cases], np.int32),
        numbers=np.array([[case["numbers"][name] for name in FIELDS] for case in cases]),
        tied=np.array(tied),
        logits=np.concatenate([case["logits"].ravel() for case in cases]),
        seen=np.packbits(np.concatenate([case["seen"].ravel() for case in cases])),
        generated=np.packbits(np.concatenate([case["generated"].ravel() for case in cases])),
        probabilities=np.concatenate(
            [case["probabilities"].astype(np.float32).ravel() for case in cases]
        ),
    )
    print(f"{CASES} cases of {seed}, {sum(tied)} cut a tie, {OUT.stat().st_size} bytes")
    print(f"transformers in float32 against float64: total variation {noise:.1e}")


if __name__ == "__main__":
    main()

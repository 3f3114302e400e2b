"""A glance at held-out accuracy in the middle of a training run."""

from __future__ import annotations

from tokenizers import Tokenizer

from qwen3_mlx.nn.transformer import Qwen3Network
from training.data.chat import FAMILIES, Mode
from training.heldout import ANSWER, Examiner, problems

_THOUGHT = 400


def quick_scores(network: Qwen3Network, tokenizer: Tokenizer, per_family: int) -> dict[str, object]:
    """Percent right by family, thinking and not."""
    examiner = Examiner(network, tokenizer)
    asked = [p for name in FAMILIES for p in problems(name, per_family, "quick")]
    scores: dict[str, object] = {}
    modes: tuple[tuple[str, Mode, int], ...] = (
        ("thinking", "thinking", _THOUGHT),
        ("direct", "hard", ANSWER),
    )
    for label, mode, limit in modes:
        written = examiner.write(examiner.prompts(asked, mode), limit)
        right = [examiner.judge(p, ids).right for p, ids in zip(asked, written, strict=True)]
        scores[label] = {
            name: round(100 * sum(right[i * per_family : (i + 1) * per_family]) / per_family)
            for i, name in enumerate(FAMILIES)
        }
    return scores

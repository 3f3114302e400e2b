"""Make tests/golden/yarn.json: transformers' YaRN frequencies at the sizes of real models.

    python -m venv golden && golden/bin/pip install torch==2.13.0 transformers==5.23.0
    golden/bin/python tests/golden/make_yarn.py

The checkpoints of make_network.py are tiny, so their ramps have two or three steps; these have the
head_dim, theta and native length that Qwen3 is used with, and the corners of the formula.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = Path(__file__).parent / "yarn.json"

QWEN = {"factor": 4.0, "original_max_position_embeddings": 32768}
CASES: tuple[tuple[int, float, dict[str, Any]], ...] = (
    (128, 1e6, QWEN),
    (128, 1e6, QWEN | {"factor": 2.0}),
    (128, 1e6, QWEN | {"factor": 1.0}),
    (128, 5e6, QWEN | {"original_max_position_embeddings": 262144}),
    (128, 1e7, QWEN | {"original_max_position_embeddings": 262144}),
    (64, 1e4, QWEN | {"factor": 32.0}),
    (128, 1e6, QWEN | {"beta_fast": 64.0, "beta_slow": 0.25}),
    (128, 1e6, QWEN | {"attention_factor": 1.5}),
    (128, 1e6, QWEN | {"truncate": False}),
    (128, 1e6, QWEN | {"beta_fast": 2.0, "beta_slow": 2.0, "truncate": False}),
    (16, 1e6, QWEN | {"original_max_position_embeddings": 6}),
    (16, 10.0, QWEN),
)


def main() -> None:
    """Write the frequencies (radians a position, float32) and the attention factor of each case."""
    out = []
    for head_dim, theta, scaling in CASES:
        rope = {"rope_type": "yarn", "rope_theta": theta, **scaling}
        config = Qwen3Config(head_dim=head_dim, rope_parameters=rope)
        frequencies, attention = ROPE_INIT_FUNCTIONS["yarn"](config, device="cpu")
        case = {"head_dim": head_dim, "theta": theta, "scaling": scaling}
        case["attention"] = float(attention)
        case["frequencies"] = [float(f"{f:.9g}") for f in frequencies.tolist()]
        out.append(json.dumps(case))
    OUT.write_text("[\n" + ",\n".join(out) + "\n]\n")


if __name__ == "__main__":
    main()

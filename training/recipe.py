"""A model's recipe (``models/NAME.toml``): its network, its optimizer, its batches, its seed."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_mlx.config import Qwen3Config
from training.data.exchange import Persona

MODELS = Path(__file__).parent / "models"
BUNDLED = Path(__file__).parents[1] / "qwen3_mlx"
DEMO = BUNDLED / "demo"


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW with warm-up and cosine decay; `peak` is the learning rate between the two."""

    peak: float
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    clip: float


@dataclass(frozen=True, slots=True)
class Batch:
    """A shape of batches, and the share of the batches that has it."""

    length: int
    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training run makes, its length aside."""

    name: str
    size: str
    seed: int
    network: dict[str, Any]
    optimizer: Optimizer
    batches: tuple[Batch, ...]
    tools: float = 0.0
    """The share of the conversations in which tools are on offer."""

    @classmethod
    def named(cls, name: str) -> Recipe:
        values = tomllib.loads((MODELS / f"{name}.toml").read_text("utf-8"))
        optimizer = values["optimizer"]
        optimizer["betas"] = tuple(optimizer["betas"])
        return cls(
            values["name"],
            values["size"],
            values["seed"],
            values["network"],
            Optimizer(**optimizer),
            tuple(Batch(**batch) for batch in values["batch"]),
            values.get("tools", 0.0),
        )

    @property
    def persona(self) -> Persona:
        """The model's sentence about itself."""
        return Persona(self.name.replace("tiny", "demo"), self.size)

    @property
    def balance(self) -> float:
        """The coefficient of the load-balancing loss, under transformers' name."""
        return float(self.network.get("router_aux_loss_coef", 0.0))

    def config_json(self, vocab_size: int, eos: int, pad: int) -> dict[str, Any]:
        """The content of config.json."""
        return {
            **self.network,
            "vocab_size": vocab_size,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "torch_dtype": "bfloat16",
        }

    def network_config(self, vocab_size: int) -> Qwen3Config:
        """The network's shape."""
        return Qwen3Config.from_dict({**self.network, "vocab_size": vocab_size})

"""Quantization recipes: the bits of each class of weights, as data.

No recipe may give a router fewer than 8 bits (it is 0.02 % of a Mixture of Experts, and errors
choose wrong experts) or the head fewer than 6, which a tied embedding (0.6B to 4B) is too. Norms
stay floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.errors import OptionError, shown

CLASSES = {
    "embedding": "the token embedding",
    "tied": "the token embedding where it is the head too",
    "head": "the output projection",
    "router": "what chooses the experts",
    "q": "attention: queries",
    "k": "attention: keys",
    "v": "attention: values",
    "o": "attention: output",
    "gate": "feed-forward: gate",
    "up": "feed-forward: up",
    "down": "feed-forward: down",
    "expert_gate": "experts: gate",
    "expert_up": "experts: up",
    "expert_down": "experts: down",
}
"""Classes of weights that a recipe can name, in the network's order; norms are not among them."""

FLOORS = {"router": 8, "head": 6, "tied": 6}
"""The fewest bits of a class."""

_LAST = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}


def weight_class(path: str, config: Qwen3Config) -> str | None:
    """The class of the weight at a module path; None for a norm."""
    parent, _, last = path.rpartition(".")
    if last == "embed_tokens":
        return "tied" if config.tie_word_embeddings else "embedding"
    if last == "lm_head":
        return "head"
    if last in _LAST:
        return _LAST[last]
    if last == "gate":
        return "router"
    if last.endswith("_proj"):
        prefix = "expert_" if parent.endswith("switch_mlp") else ""
        return prefix + last.removesuffix("_proj")
    return None


@dataclass(frozen=True)
class Recipe:
    """Bits by class of weights; None leaves a class unquantized."""

    name: str
    about: str
    bound: float
    """Largest KL divergence from the source, in nats per token, at which a result is published."""
    default: QuantSpec | None
    classes: Mapping[str, QuantSpec | None] = field(default_factory=dict)
    careful: Mapping[str, QuantSpec] = field(default_factory=dict)
    """Classes with more bits in the layers selected by `is_careful`."""
    paths: Mapping[str, QuantSpec | None] = field(default_factory=dict)
    """Single weights by module path; they override everything else."""
    target: float | None = None
    """Mean bits per weight for which `dynamic` chooses bits by measurement."""

    def spec(self, path: str, config: Qwen3Config) -> QuantSpec | None:
        """The packing of the weight at `path`; None if it isn't quantized."""
        if path in self.paths:
            return self.paths[path]
        kind = weight_class(path, config)
        if kind is None:
            return None
        if kind in self.careful and is_careful(_layer(path), config.num_hidden_layers):
            return self.careful[kind]
        return self.of_class(kind)

    def of_class(self, kind: str) -> QuantSpec | None:
        """The packing of a class outside the careful layers."""
        return self.classes.get(kind, self.default)

    def check(self) -> None:
        """Raise `OptionError` if a class gets fewer bits than `FLOORS` allows."""
        for kind, least in FLOORS.items():
            spec = self.of_class(kind)
            if spec is not None and spec.bits < least:
                raise OptionError(
                    f"recipe {self.name}: {kind}",
                    got=f"{spec.bits} bits",
                    expected=f"{least} or more, or bf16",
                    hint=f"{kind} is {CLASSES[kind]}: small, and the first to break an answer",
                )


def is_careful(layer: int, layers: int) -> bool:
    """Whether `layer` is in the first or last eighth or every third between (as in Q4_K_M)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _layer(path: str) -> int:
    return int(path.split(".")[2])


def affine(bits: int, group_size: int = 64) -> QuantSpec:
    """MLX's affine packing, with a scale and a bias per group."""
    return QuantSpec(bits, group_size)


def _protected(router: int = 8, head: int = 6) -> dict[str, QuantSpec | None]:
    return {"router": affine(router), "head": affine(head), "tied": affine(head)}


_FLOAT4 = _protected() | {"embedding": affine(6)}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("4bit", "the usual choice", 0.30, affine(4), _protected()),
        Recipe("4bit-g32", "4 bits, finer groups", 0.25, affine(4, 32), _protected()),
        Recipe("5bit", "between 4 and 6", 0.12, affine(5), _protected()),
        Recipe("6bit", "hard to tell from the original", 0.06, affine(6), _protected()),
        Recipe("8bit", "nearly lossless", 0.02, affine(8), _protected(head=8)),
        Recipe(
            "mixed-4-6",
            "4 bits; values and down projections 6 in every third layer and at both ends",
            0.25,
            affine(4),
            _protected(),
            careful={"v": affine(6), "down": affine(6), "expert_down": affine(6)},
        ),
        Recipe(
            "mxfp4",
            "4-bit floats, a power of 2 for each 32",
            0.45,
            QuantSpec(4, 32, "mxfp4"),
            _FLOAT4,
        ),
        Recipe(
            "nvfp4",
            "4-bit floats, an 8-bit float for each 16",
            0.35,
            QuantSpec(4, 16, "nvfp4"),
            _FLOAT4,
        ),
        Recipe("bf16", "no quantization; unpacks a packed source", 0.005, None),
        Recipe(
            "dynamic",
            "4 to 8 bits for each weight, chosen by measured error, 5.5 bits a weight over all",
            0.25,
            affine(4),
            _protected(),
            target=5.5,
        ),
    )
}


def table() -> str:
    """The recipes as a text table: bits by class, one recipe per line."""
    heads = ["recipe", "attention", "mlp/experts", "embedding", "tied", "head", "router", "about"]
    rows = [heads]
    for recipe in RECIPES.values():
        kinds = ("q", "up", "embedding", "tied", "head", "router")
        rows.append([recipe.name, *(_cell(recipe, kind) for kind in kinds), recipe.about])
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _cell(recipe: Recipe, kind: str) -> str:
    spec = recipe.of_class(kind)
    if recipe.target is not None and kind not in FLOORS:
        return "4-8 g64"
    text = describe(spec)
    more = {"q": "v", "up": "down"}.get(kind, "")
    return f"{text}, {more} {recipe.careful[more].bits}" if more in recipe.careful else text


def describe(spec: QuantSpec | None) -> str:
    """Bits and group size such as ``4 g64``; the mode if it isn't affine."""
    if spec is None:
        return "bf16"
    return f"{spec.bits} g{spec.group_size}" if spec.mode == "affine" else spec.mode


def find(name: str) -> Recipe:
    """The recipe `name`. Raises `OptionError` that lists the names."""
    if name not in RECIPES:
        raise OptionError(
            "unknown recipe",
            got=shown(name),
            expected=", ".join(RECIPES),
            hint="qwen3-mlx convert --list shows what they do; a file ending in .toml is one too",
        )
    return RECIPES[name]

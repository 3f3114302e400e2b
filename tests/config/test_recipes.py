"""Recipes: what each gives every kind of weight, what none may, and one's own from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.config.recipes import CLASSES, RECIPES, affine, find, is_careful, table, weight_class
from qwen3_mlx.errors import OptionError
from qwen3_mlx.hub import releases
from qwen3_mlx.quantize import recipe_file

CONFIGS = {
    alias: Qwen3Config.from_dict(release.config())
    for alias in ("0.6b", "1.7b", "4b", "8b", "32b", "30b-a3b", "235b-a22b", "coder-480b")
    if (release := releases.find(alias))
}
NAMES = (
    *("4bit", "4bit-g32", "5bit", "6bit", "8bit"),
    *("mixed-4-6", "mxfp4", "nvfp4", "bf16", "dynamic"),
)


def test_the_recipes_are_those_that_were_promised() -> None:
    assert tuple(RECIPES) == NAMES
    assert all(recipe.bound > 0 and recipe.about for recipe in RECIPES.values())


@pytest.mark.parametrize("alias", CONFIGS)
def test_every_weight_of_every_model_has_a_class_or_is_a_norm(alias: str) -> None:
    config = CONFIGS[alias]
    found = {path: weight_class(path, config) for path, _ in weight_shapes(config)}
    assert all(path.endswith("norm") == (kind is None) for path, kind in found.items())
    assert set(found.values()) <= {*CLASSES, None}
    assert ("router" in found.values()) == config.is_moe
    assert ("tied" in found.values()) == config.tie_word_embeddings


@pytest.mark.parametrize("alias", CONFIGS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_fragile_is_protected(alias: str, name: str) -> None:
    config, recipe = CONFIGS[alias], RECIPES[name]
    for path, shape in weight_shapes(config):
        spec = recipe.spec(path, config)
        kind = weight_class(path, config)
        if spec is None:
            assert name == "bf16" or kind is None
            continue
        assert len(shape) > 1, "a norm was packed"
        assert shape[-1] % spec.group_size == 0
        assert spec.bits >= {"router": 8, "head": 6, "tied": 6}.get(kind or "", 4)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_passes_its_own_check(name: str) -> None:
    RECIPES[name].check()


def test_mixed_gives_more_bits_to_values_and_down_in_careful_layers() -> None:
    config, recipe = CONFIGS["30b-a3b"], RECIPES["mixed-4-6"]
    careful = [n for n in range(48) if is_careful(n, 48)]
    assert careful[:7] == [0, 1, 2, 3, 4, 5, 8] and careful[-6:] == [42, 43, 44, 45, 46, 47]
    for layer in range(48):
        at = f"model.layers.{layer}"
        bits = 6 if layer in careful else 4
        assert recipe.spec(f"{at}.self_attn.v_proj", config) == affine(bits)
        assert recipe.spec(f"{at}.mlp.switch_mlp.down_proj", config) == affine(bits)
        assert recipe.spec(f"{at}.self_attn.q_proj", config) == affine(4)
        assert recipe.spec(f"{at}.mlp.gate", config) == affine(8)


def test_the_table_lists_all_of_them() -> None:
    lines = table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(NAMES)
    assert all(len(line) < 160 for line in lines)


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(OptionError, match="4bit, 4bit-g32"):
        find("q4_k_m")


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return file


def test_a_recipe_file(tmp_path: Path) -> None:
    text = """
        about = "for tools"
        bound = 0.1
        group_size = 32
        [bits]
        default = 5
        v = 8
        gate = { mode = "mxfp4" }
        expert_down = { bits = 6, group_size = 64 }
        router = "bf16"
    """
    recipe = recipe_file.read(written(tmp_path, text))
    assert (recipe.name, recipe.about, recipe.bound) == ("mine", "for tools", 0.1)
    assert recipe.default == affine(5, 32) and recipe.of_class("v") == affine(8, 32)
    assert recipe.of_class("gate") == QuantSpec(4, 32, "mxfp4")
    assert recipe.of_class("expert_down") == affine(6)
    assert recipe.of_class("router") is None
    assert recipe.of_class("head") == recipe.of_class("tied") == affine(6)


BAD = {
    "bits": ("[bits]\ndefault = 7", "default"),
    "no default": ("[bits]\nv = 4", "no default"),
    "no bits": ("name = 'x'", "no default"),
    "unknown key": ("colour = 'red'\n[bits]\ndefault = 4", "colour"),
    "unknown class": ("[bits]\ndefault = 4\nembeddings = 6", "embeddings"),
    "a norm": ("[bits]\ndefault = 4\nnorm = 8", "norm"),
    "router below 8": ("[bits]\ndefault = 4\nrouter = 6", "router"),
    "head below 6": ("[bits]\ndefault = 4\nhead = 4", "head"),
    "tied below 6": ("[bits]\ndefault = 4\ntied = 5", "tied"),
    "head in mxfp4": ("[bits]\ndefault = 4\nhead = { mode = 'mxfp4' }", "head"),
    "group": ("group_size = 48\n[bits]\ndefault = 4", "default"),
    "mode": ("[bits]\ndefault = { mode = 'q4_k' }", "default"),
    "mode with bits": ("[bits]\ndefault = { mode = 'mxfp4', bits = 8 }", "default"),
    "a word": ("[bits]\ndefault = 'four'", "default"),
    "a truth": ("[bits]\ndefault = true", "default"),
    "type": ("bound = 'low'\n[bits]\ndefault = 4", "bound"),
    "a name that leads elsewhere": ("name = '../../x'\n[bits]\ndefault = 4", "name: got '../../x'"),
    "a name of two lines": ('name = "a\\n# b"\n[bits]\ndefault = 4', "name: got 'a\\n# b'"),
    "no name": ("name = ' '\n[bits]\ndefault = 4", "name: got ' '"),
    "not toml": ("[bits", "can't be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_recipe_file_names_what_is_wrong(tmp_path: Path, case: str) -> None:
    text, said = BAD[case]
    with pytest.raises(OptionError) as caught:
        recipe_file.read(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_missing_recipe_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="can't be read: got No such file") as caught:
        recipe_file.read(tmp_path / "none.toml")
    assert "--list" in str(caught.value.hint)


def test_a_recipe_below_a_floor_says_why() -> None:
    low = replace(RECIPES["4bit"], classes={"router": affine(4)})
    with pytest.raises(OptionError, match="router is what chooses the experts"):
        low.check()


PACKED = {  # attention, feed-forward, embedding, tied, head, router; a value's bits and group
    "4bit": ((4, 64), (4, 64), (4, 64), (6, 64), (6, 64), (8, 64)),
    "4bit-g32": ((4, 32), (4, 32), (4, 32), (6, 64), (6, 64), (8, 64)),
    "5bit": ((5, 64), (5, 64), (5, 64), (6, 64), (6, 64), (8, 64)),
    "6bit": ((6, 64), (6, 64), (6, 64), (6, 64), (6, 64), (8, 64)),
    "8bit": ((8, 64), (8, 64), (8, 64), (8, 64), (8, 64), (8, 64)),
    "mixed-4-6": ((4, 64), (4, 64), (4, 64), (6, 64), (6, 64), (8, 64)),
    "mxfp4": ((4, 32, "mxfp4"), (4, 32, "mxfp4"), (6, 64), (6, 64), (6, 64), (8, 64)),
    "nvfp4": ((4, 16, "nvfp4"), (4, 16, "nvfp4"), (6, 64), (6, 64), (6, 64), (8, 64)),
    "dynamic": ((4, 64), (4, 64), (4, 64), (6, 64), (6, 64), (8, 64)),
}


@pytest.mark.parametrize("name", PACKED)
def test_what_each_recipe_gives(name: str) -> None:
    kinds = ("q", "up", "embedding", "tied", "head", "router")
    found = tuple(RECIPES[name].of_class(kind) for kind in kinds)
    assert found == tuple(QuantSpec(*spec) for spec in PACKED[name])
    assert RECIPES["bf16"].of_class("q") is None


ROWS = {
    "4bit": "4 g64 4 g64 4 g64 6 g64 6 g64 8 g64",
    "mixed-4-6": "4 g64, v 6 4 g64, down 6 4 g64 6 g64 6 g64 8 g64",
    "mxfp4": "mxfp4 mxfp4 6 g64 6 g64 6 g64 8 g64",
    "bf16": "bf16 bf16 bf16 bf16 bf16 bf16",
    "dynamic": "4-8 g64 4-8 g64 4-8 g64 6 g64 6 g64 8 g64",
}


@pytest.mark.parametrize("name", ROWS)
def test_a_line_of_the_table(name: str) -> None:
    line = next(line for line in table().splitlines() if line.split()[0] == name)
    assert " ".join(line.split()) == f"{name} {ROWS[name]} {RECIPES[name].about}"


@pytest.mark.parametrize(
    ("layers", "careful"),
    [
        (28, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]),
        (8, [0, 3, 6, 7]),
        (4, [2, 3]),
    ],
)
def test_layers_that_are_careful(layers: int, careful: list[int]) -> None:
    """The first and last eighth and every third between, as llama.cpp's Q4_K_M chooses."""
    assert [n for n in range(layers) if is_careful(n, layers)] == careful


@pytest.mark.parametrize(("kind", "least"), [("router", 8), ("head", 6), ("tied", 6)])
def test_floors(kind: str, least: int) -> None:
    recipe = replace(RECIPES["bf16"], classes={kind: affine(least)})
    recipe.check()
    with pytest.raises(OptionError) as caught:
        replace(recipe, classes={kind: affine(least - 1)}).check()
    assert str(caught.value) == (
        f"recipe bf16: {kind}: got {least - 1} bits, expected {least} or more, or bf16"
        f"\nhint: {kind} is {CLASSES[kind]}: small, and the first to break an answer"
    )

"""A corpus of folders as people's tools leave them, each with the tool and version that does.

Generated, as `variants` is: whole models in tiny, with the files, names and leftovers that tools
write. `folders()` gives them all; each loads and computes what the plain model does, is one that
`convert` reads, or is refused for a stated reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.corpus.bases import INDEX, LOADS, SHARD, Folder, Model, Tensors
from tests.corpus.packed_folders import packed
from tests.corpus.text_folders import texts
from tests.quantize.build import Bits16, bf16, from_bf16

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
APPLE = bytes.fromhex("0005160700020000") + bytes(4088)


def renamed(rename: Callable[[str], str]) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        model.tensors = {rename(name): x for name, x in model.tensors.items()}

    return change


def prefixed(prefix: str) -> Callable[[Model], None]:
    return renamed(lambda name: f"{prefix}{name}")


def bare(prefix: str = "") -> Callable[[Model], None]:
    return renamed(lambda name: prefix + name.removeprefix("model."))


def names() -> Iterator[Folder]:
    """What stands before the tensors' names, or doesn't."""
    wrappers = {
        "base_model.model.": "PEFT 0.15, its wrapper saved",
        "_orig_mod.": "torch 2.7, torch.compile",
        "module.": "DeepSpeed 0.16, the state of the engine",
        "module._orig_mod.": "accelerate 1.7, compiled and distributed",
        "language_model.": "transformers 4.52, cut out of a vision model",
        "model.": "a trainer whose module is called model",
    }
    for base in ("dense", "untied", "moe"):
        for prefix, tool in wrappers.items():
            yield Folder(f"{prefix} {base}", tool, base, prefixed(prefix))
        said = "turns texts into vectors" if base == "dense" else LOADS  # without a head: a body
        for prefix, tool in (("", "a converter to GPT-NeoX's names"), ("module.", "FSDP 2")):
            title = f"{prefix or 'nothing'} before layers, {base}"
            yield Folder(title, tool, base, bare(prefix), outcome=said)
    yield Folder(
        "half a prefix",
        "two states merged by hand",
        "untied",
        renamed(lambda name: f"module.{name}" if "layers.0" in name else name),
        outcome="missing model.layers.0",
    )


def together(model: Model, suffix: str = "") -> None:
    """transformers 5's experts: ``gate_up_proj [E, 2 I, H]``, ``down_proj [E, H, I]``."""
    found = {name: x for name, x in model.tensors.items() if ".experts." not in name}
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts"

        def stack(kind: str, at: str = at) -> np.ndarray:
            return np.stack([bits(model.tensors[f"{at}.{n}.{kind}.weight"]) for n in range(8)])

        both = np.concatenate([stack("gate_proj"), stack("up_proj")], axis=1)
        found[f"{at}.gate_up_proj{suffix}"] = Bits16(both)
        found[f"{at}.down_proj{suffix}"] = Bits16(stack("down_proj"))
    model.tensors = found


def bits(stored: object) -> np.ndarray:
    assert isinstance(stored, Bits16)
    return stored.bits


def stacked(name: str) -> Callable[[Model], None]:
    """Each projection of a layer's experts in one array."""

    def change(model: Model) -> None:
        found = {key: x for key, x in model.tensors.items() if ".experts." not in key}
        for layer in range(2):
            at = f"model.layers.{layer}.mlp"
            for kind in ("gate_proj", "up_proj", "down_proj"):
                each = [model.tensors[f"{at}.experts.{n}.{kind}.weight"] for n in range(8)]
                found[name.format(at, kind)] = Bits16(np.stack([bits(x) for x in each]))
        model.tensors = found

    return change


def without(part: str) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        model.tensors = {name: x for name, x in model.tensors.items() if part not in name}

    return change


def more(**tensors: tuple[int, ...]) -> Callable[[Model], None]:
    """Surplus tensors by name (dots spelled ``__``) and shape."""

    def change(model: Model) -> None:
        for name, shape in tensors.items():
            model.tensors[name.replace("__", ".")] = bf16(np.full(shape, 0.5, np.float32))

    return change


def experts() -> Iterator[Folder]:
    """How the experts of a layer lie."""
    tool = "transformers 5"
    yield Folder("experts in one array", f"{tool}.0", "moe", together)
    yield Folder("the same, .weight", f"{tool}, a trainer", "moe", lambda m: together(m, ".weight"))
    yield Folder("switch_mlp", "mlx-lm 0.24", "moe", stacked("{}.switch_mlp.{}.weight"))
    yield Folder("stacked", "Megatron bridge 0.2", "moe", stacked("{}.experts.{}.weight"))
    yield Folder("stacked, no .weight", "llama.cpp's dequantizer", "moe", stacked("{}.experts.{}"))
    lost = without("layers.1.mlp.experts.7.")
    yield Folder(
        "an expert is lost", "REAP, config.json as before", "moe", lost, outcome="[7, 64, 64]"
    )
    new = more(model__layers__0__mlp__experts__8__up_proj__weight=(64, 64))
    yield Folder("an expert more", "mergekit 0.1 moe", "moe", new, outcome="surplus")
    router = without("layers.1.mlp.gate.")
    yield Folder("a router is lost", "a merge of dense models", "moe", router, outcome="mlp.gate")


def with_head(scale: float) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        floats = from_bf16(model.tensors["model.embed_tokens.weight"])  # type: ignore[arg-type]
        model.tensors["lm_head.weight"] = bf16(floats * np.float32(scale))

    return change


def heads() -> Iterator[Folder]:
    """What stands at the end of the network."""
    yield Folder(
        "a tied head stored", "transformers 4.51, safe_serialization", "dense", with_head(1)
    )
    other = "lm_head.weight is not the embedding"
    yield Folder(
        "another tied head", "Unsloth, lm_head trained", "dense", with_head(2), found=other
    )
    lost = "no output head"
    yield Folder("no head", "a save of half a model", "untied", without("lm_head"), outcome=lost)
    yield Folder("no head, moe", "the same", "moe", without("lm_head"), outcome=lost)
    scores = {
        "score__weight": "transformers 4.51 ForSequenceClassification",
        "v_head__summary__weight": "trl 0.19 with a value head",
        "classifier__weight": "a reranker's trainer",
        "value_head__weight": "LlamaFactory 0.9 reward model",
        "reward_head__weight": "OpenRLHF 0.8",
    }
    for name, tool in scores.items():
        for base in ("dense", "moe"):
            new, title = more(**{name: (2, 64)}), f"{name.replace('__', '.')} {base}"
            yield Folder(title, tool, base, new, outcome="scores or classifies")


def extras() -> Iterator[Folder]:
    """Tensors that say which network it really is, and such as nobody needs."""
    rotary = more(model__layers__0__self_attn__rotary_emb__inv_freq=(32,))
    yield Folder("RoPE's table", "transformers 4.30's buffers", "dense", rotary)
    cases: dict[str, tuple[tuple[int, ...], str, str]] = {
        "model__layers__0__self_attn__q_proj__bias": ((128,), "Qwen2.5's weights", "Qwen2"),
        "model__layers__0__self_attn__k_proj__k_scale": ((1,), "llm-compressor KV", "FP8 scales"),
        "model__layers__0__mlp__up_proj__lora_A__weight": ((4, 64), "PEFT, unmerged", "LoRA"),
        "visual__blocks__0__attn__qkv__weight": ((4, 4), "Qwen3-VL", "Qwen3-VL"),
        "model__layers__2__mlp__up_proj__weight": ((4, 4), "another depth", "mixes files"),
        "model__layers__0__mlp__up_proj__scales": ((4, 4), "mlx-lm, lost block", "MLX packed"),
        "model__layers__0__mlp__up_proj__weight_scale_inv": ((1, 1), "lost block", "another tool"),
    }
    for name, (shape, tool, said) in cases.items():
        new, title = more(**{name: shape}), name.replace("__", ".")
        yield Folder(title, tool, "dense", new, outcome=said)


def put(name: str, content: bytes | str = b"anything") -> Callable[[Path], None]:
    def afterwards(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return afterwards


def remove(*files: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in files]


def move(old: str, new: str) -> Callable[[Path], None]:
    def afterwards(folder: Path) -> None:
        (folder / old).rename(folder / new)

    return afterwards


def leftovers() -> Iterator[Folder]:
    """Files beside the model that are no part of it."""
    beside = {
        "._model.safetensors": ("macOS, exFAT", APPLE),
        "._config.json": ("macOS, SMB", APPLE),
        ".DS_Store": ("macOS", b"\0\0\0\1Bud1"),
        "Thumbs.db": ("Windows", b"\xd0\xcf\x11\xe0"),
        "consolidated.safetensors": ("a second format", b"anything"),
        "adapters.safetensors": ("mlx-lm 0.24 lora", b"anything"),
        "0000100_adapters.safetensors": ("mlx-lm 0.24 lora, by iteration", b"anything"),
        "adapter_model.safetensors": ("PEFT 0.15", b"anything"),
        "adapter_config.json": ("PEFT 0.15", "{}"),
        "model (1).safetensors": ("a browser, downloaded twice", b"anything"),
        "model.safetensors.incomplete": ("huggingface_hub 0.30, stopped", b"anything"),
        "model.safetensors.aria2": ("aria2", b"anything"),
        ".cache/huggingface/.gitignore": ("huggingface_hub 0.30 --local-dir", "*"),
        "original/model-00001-of-00002.safetensors": ("Meta's layout", b"anything"),
        "onnx/model.onnx": ("optimum 1.25", b"anything"),
        "checkpoint-500/model.safetensors": ("transformers' Trainer", b"anything"),
        "optimizer.pt": ("transformers' Trainer", b"anything"),
        "training_args.bin": ("transformers' Trainer", b"anything"),
        "pytorch_model.bin": ("transformers 4.30", b"anything"),
        "model.fp16.safetensors": ("diffusers' variant", b"anything"),
        "tokenizer.model": ("a converter to sentencepiece", b"anything"),
        "special_tokens_map.json": ("transformers 4.51", "{}"),
        "recipe.yaml": ("llm-compressor 0.5", "x: 1"),
        "quant_log.csv": ("GPTQModel 2.2", "layer,loss"),
        "model.gguf": ("llama.cpp beside it", b"GGUF"),
        "mergekit_config.yml": ("mergekit 0.1", "models: []"),
    }
    for name, (tool, content) in beside.items():
        yield Folder(f"beside it {name}", tool, "dense", afterwards=put(name, content))
    for name in ("consolidated.safetensors", "adapter_model.safetensors", "._x.safetensors"):
        yield Folder(
            f"beside shards {name}", beside.get(name, ("macOS",))[0], "moe",
            lambda model: model.split(), put(name),
        )  # fmt: skip


def no_index(model: Model) -> None:
    model.split()
    del model.jsons[INDEX]


def one_of_one(model: Model) -> None:
    model.shards = {SHARD.format(1, 1): model.tensors}


def stale(model: Model) -> None:
    model.split()
    model.shards = None


def another_set(folder: Path) -> None:
    for number in (1, 3):
        put(SHARD.format(number, 3))(folder)


def doubled(model: Model) -> None:
    model.split()
    assert model.shards is not None
    first, second = model.shards.values()
    name = next(iter(first))
    second[name] = first[name]


def linked(target: str) -> Callable[[Path], Path]:
    """The hub's cache: a snapshot of links, relative or absolute."""

    def afterwards(folder: Path) -> Path:
        base = folder.parent / f"{folder.name}-cache" / "models--own--model"
        blobs, snapshot = base / "blobs", base / "snapshots" / ("a" * 40)
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for number, file in enumerate(sorted(folder.iterdir())):
            file.rename(blobs / str(number))
            goal = blobs / str(number)
            (snapshot / file.name).symlink_to(
                os.path.relpath(goal, snapshot) if target == "relative" else goal
            )
        return snapshot

    return afterwards


def files() -> Iterator[Folder]:
    """In which files the weights lie."""
    two = Model.split
    for base in ("dense", "moe"):
        for title, tool, change in (
            ("two shards", "transformers 4.51", two),
            ("seven shards", "mlx-lm 0.24", lambda model: model.split(7)),
            ("shards without index", "Unsloth 2025.5, merged upload", no_index),
            ("one shard of one", "mergekit 0.1", one_of_one),
            ("a stale index", "a merge over an old folder", stale),
        ):
            yield Folder(f"{title}, {base}", tool, base, change)
        for kind in ("relative", "absolute"):
            title = f"a cache of {kind} links, {base}"
            yield Folder(title, "huggingface_hub 0.30", base, two, linked(kind))
    bad_index = put(INDEX, "{")
    yield Folder("a damaged stale index", "a full disk", "dense", afterwards=bad_index)
    yield Folder("two sets of shards", "a save over another", "dense", no_index, another_set)
    weights = move("model.safetensors", "weights.safetensors")
    yield Folder("weights.safetensors", "mlx-lm 0.0.3", "dense", afterwards=weights)
    other = move("model.safetensors", "model.fp16.safetensors")
    yield Folder("a variant alone", "transformers variant='fp16'", "dense", afterwards=other)
    yield Folder("config.json behind a BOM", "Notepad", "dense", afterwards=bom)
    yield from missing()


def bom(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def missing() -> Iterator[Folder]:
    """Files that are not there, or not what they seem."""
    two, one = Model.split, "model.safetensors"
    page = "<!DOCTYPE html><html>Sign in</html>" * 3
    outside = json.dumps({"weight_map": {"model.norm.weight": "../x.safetensors"}})
    cases: dict[str, tuple[Callable[[Model], object], Callable[[Path], object], str]] = {
        "a clone without git-lfs": (lambda m: None, put(one, POINTER), "git lfs pull"),
        "git-lfs, shards": (two, put(SHARD.format(2, 2), POINTER), "git lfs pull"),
        "git-lfs, tokenizer": (lambda m: None, put("tokenizer.json", POINTER), "git lfs pull"),
        "git-lfs, config": (lambda m: None, put("config.json", POINTER), "git lfs pull"),
        "a shard is missing": (two, remove(SHARD.format(2, 2)), "shards are missing"),
        "the same, no index": (no_index, remove(SHARD.format(1, 2)), "shards are missing"),
        "an index without shards": (two, remove(*map(SHARD.format, (1, 2), (2, 2))), "missing"),
        "an index that leads outside": (two, put(INDEX, outside), "outside the directory"),
        "a tensor in two shards": (doubled, lambda f: None, "stands twice"),
        "cut short": (lambda m: None, cut(one), "cut short"),
        "empty": (lambda m: None, put(one, b""), "no safetensors file"),
        "a page in its place": (lambda m: None, put(one, page), "no safetensors file"),
        "PyTorch's file alone": (
            lambda m: None,
            move(one, "pytorch_model.bin"),
            "no safetensors files",
        ),
        "an adapter alone": (
            lambda m: None,
            move(one, "adapter_model.safetensors"),
            "LoRA adapter",
        ),
        "no config": (lambda m: None, remove("config.json"), "config.json"),
        "a config in UTF-16": (lambda m: None, utf16, "config.json"),
        "a config cut short": (lambda m: None, cut("config.json"), "config.json"),
    }
    for title, (change, afterwards, said) in cases.items():
        yield Folder(title, "as it says", "untied", change, afterwards, said)


def utf16(folder: Path) -> None:
    text = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").write_text(text, "utf-16")


def folders() -> list[Folder]:
    """All of them."""
    found = (names(), experts(), heads(), extras(), leftovers(), files(), texts(), packed())
    return [folder for some in found for folder in some]


__all__ = ["Tensors", "folders"]

"""Finds contradictions between a model's files before anything is computed.

The files are config.json, generation_config.json, the tokenizer's files, the index and the arrays;
docs/log.md (2026-11-28) lists the compared pairs. `check` reads only JSON and headers and needs no
MLX; `deep_findings` reads the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from qwen3_mlx.checkpoint import check_text
from qwen3_mlx.checkpoint.headers import shard_files, weight_files
from qwen3_mlx.checkpoint.match import find_parameter, with_head_or_without, wrapper_prefix
from qwen3_mlx.checkpoint.model_files import Files, Finding, Severity, is_mlx, pairs
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.errors import CheckpointError, Qwen3Error
from qwen3_mlx.files import open_regular
from qwen3_mlx.hub.weight_files import INDEX

_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SAMPLE = 4096
"""Bytes per sample when two arrays that should be equal are compared."""


def check(directory: str | Path) -> list[Finding]:
    """All contradictions between the model's files, errors first.

    A file that can't be read is an error too, with the reader's message.
    """
    files = Files(directory)
    found: list[Finding] = []
    for find_in in _CHECKS:
        try:
            found += find_in(files)
        except Qwen3Error as error:
            found.append(Finding("error", error.summary))
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(dict.fromkeys(found), key=lambda finding: order[finding.severity])


def require_sound(findings: Iterable[Finding], what: str) -> None:
    """Raise one `CheckpointError` for all errors among `findings`."""
    errors = [finding.text for finding in findings if finding.severity == "error"]
    if errors:
        listed = "\n  ".join(errors[:5])
        raise CheckpointError(f"{what} contradicts itself:\n  {listed}")


def _folder(files: Files) -> Iterator[Finding]:
    for reason in weight_files(files.directory).passed_over:
        yield Finding("note", f"passed over: {reason}")
    if prefix := wrapper_prefix(files.stored):
        yield Finding("note", f"taken off the names of all tensors: {prefix!r}")


def _config(files: Files) -> Iterator[Finding]:
    values, config = files.values, files.config
    mlx, other = values.get("quantization"), values.get("quantization_config")
    if mlx and other and mlx != other:
        severity: Severity = "error" if is_mlx(values) else "warning"
        yield Finding(severity, "config.json: quantization and quantization_config differ")
    named = values.get("architectures")
    for name in named if isinstance(named, list) else ():
        if name == "Qwen3Model":  # an embedder's body
            continue
        if not str(name).endswith("ForCausalLM"):
            yield Finding("warning", f"config.json: architectures says {name}, no language model")
        elif ("Moe" in str(name)) != config.is_moe:
            yield Finding("error", f"config.json: {name} and model_type {config.model_type}")
    kinds = values.get("layer_types")
    if kinds and len(kinds) != config.num_hidden_layers:
        text = f"{len(kinds)} layer_types and num_hidden_layers {config.num_hidden_layers}"
        yield Finding("error", f"config.json: {text}")
    if beyond := [n for n in config.mlp_only_layers if not 0 <= n < config.num_hidden_layers]:
        yield Finding("warning", f"config.json: mlp_only_layers names no layer: {beyond}")
    if yarn := config.rope.scaling:
        reach = int(yarn.factor * yarn.original_max_position_embeddings)
        if config.max_position_embeddings > reach:
            text = f"YaRN reaches {reach} positions, max_position_embeddings says"
            yield Finding("note", f"config.json: {text} {config.max_position_embeddings}")
    if config.quantization is not None:
        paths = {path for path, _ in weight_shapes(config)} | {"lm_head"}
        for path, spec in config.quantization.overrides.items():
            if path not in paths and spec not in (None, config.quantization.default):
                yield Finding("warning", f"config.json: quantization of {path}: no such module")


def _weights(files: Files) -> Iterator[Finding]:
    """Each array against the shape that config.json gives it, as MLX packs it."""
    if ("quantization_config" in files.values and not is_mlx(files.values)) or not files.tensors:
        return  # no weights, or another tool's packing, which `convert` checks
    config = with_head_or_without(files.config, files.tensors, files.directory)
    dtypes = set()
    for path, shape in files.share.weight_shapes(config):
        found = find_parameter(lambda p: files.tensors.get(f"{p}.weight"), path, config.num_experts)
        if not found:
            yield Finding("error", f"{path}.weight is missing")
            continue
        dtypes |= {info.dtype for info in found}
        if f"{path}.scales" in files.tensors:
            yield from _packed(files, path, shape, found[0])
        elif sum(info.nbytes for info in found) and found[0].shape[-1:] != shape[-1:]:
            got = f"{list(found[0].shape)}, config.json makes it {list(shape)}"
            yield Finding("error", f"{path}.weight is {got}")
    stated = str(files.values.get("torch_dtype") or files.values.get("dtype") or "")
    stored = {_FLOATS[dtype] for dtype in dtypes if dtype in _FLOATS}
    if stated and stored and stated.removeprefix("torch.") not in stored:
        arrays = ", ".join(sorted(stored))
        yield Finding("note", f"config.json says {stated}, the arrays are {arrays}")


def _shares(files: Files) -> Iterator[Finding]:
    """The files of a split checkpoint that are here, against config.json."""
    if files.shares is None:
        return
    here = [str(part.share.rank + 1) for part in files.parts()]
    text = f"shared out to {files.shares.description}; here is share {' and '.join(here) or 'none'}"
    yield Finding("note", f"{text}: qwen3-mlx launch runs it")
    for part in files.parts():
        try:
            yield from _weights(part)
        except Qwen3Error as error:
            yield Finding("error", error.summary)


def _packed(
    files: Files, path: str, shape: tuple[int, ...], weight: TensorInfo
) -> Iterator[Finding]:
    packing = files.share.config(files.config).quantization
    spec = packing.spec(path) if packing else None
    if spec is None:
        yield Finding("error", f"{path} has scales, but config.json does not say how it is packed")
        return
    scales, columns = files.tensors[f"{path}.scales"], shape[-1]
    groups, words = columns // spec.group_size, columns * spec.bits // 32
    if scales.shape[-1:] != (groups,) or weight.shape[-1:] != (words,):
        stated = f"{spec.bits} bits in groups of {spec.group_size}"
        got = f"weight {list(weight.shape)}, scales {list(scales.shape)}"
        yield Finding("error", f"{path} is not packed with {stated}: {got}")


def _head(files: Files) -> Iterator[Finding]:
    """A stored head of a tied model must equal the embedding."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    head, embedding = (files.tensors.get(name) for name in names)
    if not files.config.tie_word_embeddings or head is None or embedding is None:
        return
    same = head.nbytes == embedding.nbytes and head.dtype == embedding.dtype
    if not same or any(_sample(head, n) != _sample(embedding, n) for n in range(4)):
        text = "tie_word_embeddings is true, but lm_head.weight is not the embedding"
        yield Finding("warning", f"config.json: {text}: it is passed over")


def _sample(info: TensorInfo, number: int) -> bytes:
    with open_regular(info.file) as stream:
        stream.seek(info.offset + max(info.nbytes - SAMPLE, 0) * number // 3)
        return stream.read(min(SAMPLE, info.nbytes))


def _index(files: Files) -> Iterator[Finding]:
    if not (files.directory / INDEX).is_file() or not files.stored:
        return
    if INDEX in "".join(weight_files(files.directory).passed_over):
        return  # a stale index, which has its own finding
    places = dict(pairs(files.json(INDEX).get("weight_map")))
    wrong = [n for n, info in files.stored.items() if places.get(n) not in (None, info.file.name)]
    if wrong:
        place = f"{places[wrong[0]]}, it is in {files.stored[wrong[0]].file.name}"
        yield Finding("warning", f"{INDEX}: {wrong[0]} in {place} ({len(wrong)} such tensors)")
    if lost := [name for name in places if name not in files.stored]:
        yield Finding("warning", f"{INDEX} names tensors that no shard has: {lost[0]}")


_CHECKS = (
    *(_folder, _config, _weights, _shares, _head, _index),
    *(check_text.tokenizer, check_text.ends, check_text.template, check_text.sampling),
)


def deep_findings(directory: str | Path) -> Iterator[Finding]:
    """What takes reading all: a tokenizer and weights that load, and are finite.

    Another tool's packing isn't loaded; `convert` checks it.
    """
    files = Files(directory)
    try:
        if files.shares is None:
            shard_files(files.directory)
        _require_loadable(files)
    except Qwen3Error as error:
        yield Finding("error", error.summary)
    yield from array_findings(directory)


def _require_loadable(files: Files) -> None:
    """Raise the loader's errors, as it does before it reads a weight."""
    from qwen3_mlx.checkpoint.unread import unread_network
    from qwen3_mlx.text import Tokenizer

    if Tokenizer.is_there(files.directory):
        Tokenizer.from_dir(files.directory)
    if "quantization_config" in files.values and not is_mlx(files.values):
        return
    for part in files.parts():
        unread_network(files.directory, None, part.share)


def array_findings(directory: str | Path) -> Iterator[Finding]:
    """Read all floats of the weights in blocks of rows: NaN and infinity are errors."""
    import qwen3_mlx.device.backend  # noqa: F401

    import mlx.core as mx

    from qwen3_mlx.checkpoint.raw import FLOATS, read_rows

    stored = (item for part in Files(directory).parts() for item in part.stored.items())
    for name, info in stored:
        if info.dtype not in FLOATS or not info.nbytes:
            continue
        rows = math.prod(info.shape[:-1])
        step = max(2**22 // info.shape[-1], 1) if info.shape else 1
        for start in range(0, rows, step):
            if not mx.isfinite(read_rows(info, start, min(start + step, rows))).all().item():
                yield Finding("error", f"{name} holds NaN or infinity")
                break

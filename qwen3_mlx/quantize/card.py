"""Writes the model card: the recipe, the measured loss, and how to use the model.

Every number is computed from the plan or measured by `verify`.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3_mlx.config.matrices import active_parameters, parameters
from qwen3_mlx.config.recipes import CLASSES, describe, weight_class
from qwen3_mlx.errors import Qwen3Error, gb
from qwen3_mlx.fit.inequality import Weights, fit, largest_context
from qwen3_mlx.fit.machine import MAC_MEMORY_GB, mac
from qwen3_mlx.options import Family, preset
from qwen3_mlx.quantize.origin import Origin
from qwen3_mlx.quantize.plan import Item, Plan


def card(
    plan: Plan, origin: Origin, title: str, measured: dict[str, Any] | None, command: str
) -> str:
    """README.md for the hub. `measured` is a `verify.Comparison` as a dictionary, or None."""
    sections = (
        _front_matter(plan, origin),
        _head(plan, origin, title),
        _recipe(plan),
        _measured(plan, measured),
        _fit(plan),
        _use(plan, title),
        _repeat(plan, origin, command),
    )
    return "\n".join(sections)


def renamed(text: str, title: str) -> str:
    """The card `text` with `title` for the name that it was written with.

    A result may be published as another than it was converted for. Only the heading and the
    commands that `card` writes are changed; a card without them is returned as it is.
    """
    found = re.search(r"^qwen3-mlx chat (.+)$", text, re.MULTILINE)
    if found is None:
        return text
    word = found[1]
    old, new = re.escape(word), shlex.quote(title)
    text = re.sub(rf"^(qwen3-mlx (?:chat|generate)) {old}(?= |$)", rf"\1 {new}", text, flags=re.M)
    before = {word, *_words(word)}
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    if heading is None or heading[1] not in before:
        return text
    return text.replace(heading[0], f"# {title}", 1)


def _words(word: str) -> list[str]:
    try:
        return shlex.split(word)
    except ValueError:  # an old card's, unquoted
        return []


def _front_matter(plan: Plan, origin: Origin) -> str:
    lines = ["---", "library_name: mlx", "pipeline_tag: text-generation"]
    if origin.license:
        lines.append(f"license: {origin.license}")
    if origin.license_name:
        lines.append(f"license_name: {origin.license_name}")
    if origin.license_link:
        lines.append(f"license_link: {origin.license_link}")
    if origin.repo:
        lines += ["base_model:", f"- {origin.repo}"]
        # With an adapter in it, it is no longer the base model in fewer bits.
        relation = "finetune" if plan.source.adapter else "quantized"
        told = plan.recipe.default or plan.source.adapter
        lines += [f"base_model_relation: {relation}"] if told else []
    return "\n".join([*lines, "tags:", "- mlx", "- qwen3", "- qwen3-mlx", "---", ""])


def _head(plan: Plan, origin: Origin, title: str) -> str:
    config = plan.source.config
    where = f"[{origin.repo}](https://huggingface.co/{origin.repo})" if origin.repo else origin.name
    revision = f", revision `{origin.revision}`" if origin.revision else ""
    chain = f" (itself made from {origin.chain})" if origin.chain else ""
    active = active_parameters(config)
    count = f"{parameters(config):,} parameters"
    count += f", {active:,} active for a token" if config.is_moe else ""
    packed = "" if plan.source.format == "plain" else f", whose weights are {plan.source.format}"
    fused = ", with a LoRA adapter fused in" if plan.source.adapter else ""
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Converted from {where}{chain}{revision}{packed}{fused}, for MLX.",
            f"{count}; {gb(plan.weight_bytes, 2)}, "
            f"{plan.bits_per_weight:.3f} bits a weight over all (source: "
            f"{gb(plan.source.nbytes, 2)}).",
            f"Licence: {origin.license or 'see the original model'}. The original's card is the"
            " authority on the model itself.",
            "",
        ]
    )


def _recipe(plan: Plan) -> str:
    lines = [
        f"## Recipe: {plan.recipe.name}",
        "",
        f"{plan.recipe.about.capitalize()}.",
        "",
        "| weights | packing | parameters | bytes |",
        "|---|---|---:|---:|",
    ]
    for label, packing, items in _classes(plan):
        count = sum(math.prod(item.weight.shape) for item in items)
        size = sum(item.nbytes for item in items)
        lines.append(f"| {label} | {packing} | {count:,} | {size:,} |")
    return "\n".join([*lines, ""])


def _classes(plan: Plan) -> Iterator[tuple[str, str, list[Item]]]:
    groups: dict[tuple[str, str], list[Item]] = {}
    floats = str(plan.dtype).rpartition(".")[2]
    for item in plan.items:
        kind = weight_class(item.weight.path, plan.source.config) or "norm"
        packing = describe(item.spec) if item.spec else floats
        groups.setdefault((kind, packing), []).append(item)
    order = [*CLASSES, "norm"]
    for (kind, packing), items in sorted(
        groups.items(), key=lambda g: (order.index(g[0][0]), g[0])
    ):
        yield CLASSES.get(kind, "norms"), packing, items


def _measured(plan: Plan, measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "## Compared with the source\n\nNot measured.\n"
    rows = [
        ("KL divergence, mean", measured["kl_mean"], "nats a token"),
        ("KL divergence, largest", measured["kl_max"], "nats"),
        ("same first choice", measured["agreement"], "of tokens"),
        ("perplexity of the source", measured["perplexity_source"], ""),
        ("perplexity of this", measured["perplexity_result"], ""),
    ]
    table = [f"| {name} | {value} {unit} |" for name, value, unit in rows]
    return "\n".join(
        [
            "## Compared with the source",
            "",
            f"Measured on {measured['tokens']} tokens: {measured['text']}."
            " A short text finds damage; it is no benchmark.",
            "",
            "| | |",
            "|---|---|",
            *table,
            "",
            f"This recipe is published up to a mean divergence of {plan.recipe.bound} nats.",
            "",
        ]
    )


def _fit(plan: Plan) -> str:
    """The section on which Macs the model fits, and with how much context."""
    config, weights = plan.source.config, _weights(plan)
    lines = [
        "## Will it fit?",
        "",
        "| Mac | longest context (native at most), 16-bit cache |",
        "|---|---:|",
    ]
    for gigabytes in MAC_MEMORY_GB:
        most = largest_context(config, weights, mac(gigabytes))
        lines.append(f"| {gigabytes} GB | {f'{most:,}' if most else 'does not fit'} |")
        if most >= config.native_context // 256 * 256:
            break
    need = fit(
        config, weights, mac(MAC_MEMORY_GB[-1]), min(4096, config.native_context)
    ).required_bytes
    note = f"Computed, not measured: {gb(need, 2)} with 4,096 tokens of context."
    return "\n".join([*lines, "", note, ""])


def _weights(plan: Plan) -> Weights:
    packed = [t for item in plan.items for t in item.stored if t.dtype in ("U32", "U8")]
    size = sum(tensor.nbytes for tensor in packed)
    return Weights(plan.weight_bytes, size, (plan.weight_bytes - size) // plan.dtype.size)


def _use(plan: Plan, title: str) -> str:
    family = family_of(plan.source.directory)
    word = shlex.quote(title)
    lines = ["## Use", "", "```", "pip install qwen3-mlx", f"qwen3-mlx chat {word}"]
    if family in ("hybrid", "thinking"):
        lines.append(f'qwen3-mlx generate {word} "What is 17 * 23?" --budget 1024')
    lines += ["```", "", "mlx-lm and LM Studio load it too.", ""]
    if family is None:
        return "\n".join(lines)
    if family in ("hybrid", "thinking"):
        lines += ["`--budget` ends the thought after that many tokens and asks for the answer.", ""]
    lines += [
        "| mode | temperature | top_p | top_k | repetition_penalty |",
        "|---|---|---|---|---|",
    ]
    modes = {"hybrid": (True, False), "thinking": (True,)}.get(family, (False,))
    for thinking in modes:
        s = preset(family, thinking)
        mode = "thinking" if thinking else "not thinking"
        lines.append(
            f"| {mode} | {s.temperature} | {s.top_p} | {s.top_k} | {s.repetition_penalty} |"
        )
    return "\n".join([*lines, ""])


def family_of(directory: Path) -> Family | None:
    """The model's family by its chat template; None without a valid one."""
    from qwen3_mlx.text import ChatTemplate

    try:
        return ChatTemplate.from_dir(directory).family
    except Qwen3Error:
        return None


def _repeat(plan: Plan, origin: Origin, command: str) -> str:
    from qwen3_mlx import __version__

    lines = ["## Repeat it", "", "```", command, "```", "", f"qwen3-mlx {__version__}."]
    if origin.revision:
        lines[-1] += f" The source was at revision `{origin.revision}`."
    return "\n".join([*lines, "The same source gives the same bytes.", ""])

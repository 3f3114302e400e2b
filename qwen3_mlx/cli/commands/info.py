"""``qwen3-mlx info``: describes a model and its memory use from its config and headers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from qwen3_mlx.checkpoint.check import check
from qwen3_mlx.checkpoint.model_files import Finding
from qwen3_mlx.checkpoint.share_files import read_shares
from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.chat import load
from qwen3_mlx.cli.terminal.numbers import EVERYDAY_CONTEXT, parameters
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.config import Qwen3Config, matrices
from qwen3_mlx.config.shares import Shares
from qwen3_mlx.errors import OptionError, gb
from qwen3_mlx.fit import inequality, kv_cache, machine
from qwen3_mlx.hub import kinds, resolve
from qwen3_mlx.options import check_context


@dataclass(frozen=True)
class Facts:
    """What `info` reports about a model."""

    where: str
    config: Qwen3Config
    weights: inequality.Weights
    from_headers: bool
    kv_bits: int | None
    machine: machine.Machine
    fit: inequality.Fit
    kind: kinds.Kind = "chat"
    findings: tuple[Finding, ...] = ()
    """Contradictions between the model's files; none if it is not on this machine."""
    shares: Shares | None = None
    """The machines among which its files are split, if they are."""


def command(
    model: opt.Model = None,
    context: Annotated[
        int | None, opt.option("N", "Tokens of context to count with (default: 4096).")
    ] = None,
    kv_bits: Annotated[
        int | None, opt.option("N", "Bits of keys and values to count with: 4, 8 (default: 16).")
    ] = None,
    memory: opt.Memory = None,
    machines: Annotated[
        str | None,
        opt.option("NxGB", "Share it out to Macs, such as 2x128: two of 128 GB."),
    ] = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Show what a model is, and whether it fits, before a byte of its weights is downloaded.

    Reads only config.json and the safetensors headers (some kilobytes, asked of the hub if the
    model is not here), and fills in: weights + keys and values + prefill + runtime <= available.

    Examples:

        qwen3-mlx info 8b
        qwen3-mlx info 235b-a22b --memory 192 --context 32768
        qwen3-mlx info 235b --machines 2x128
        qwen3-mlx info ./my-model --json
    """
    if machines is not None and memory is not None:
        hint = "--machines says the memory of each: --machines 2x128"
        raise OptionError("--machines and --memory", got="both", expected="one", hint=hint)
    screen, (name, note) = Screen(), load.choose(model)
    if note not in ("", load.DEMO_NOTE):
        screen.note(note)
    if machines is not None:
        from qwen3_mlx.cli import machines_report

        found = machines_report.gather(name, context, kv_bits, machines)
        if as_json:
            screen.json(f"{json.dumps(machines_report.record(found))}\n")
        else:
            screen.answer("\n".join(machines_report.lines(found)) + "\n")
        return
    facts = gather(name, context, kv_bits, memory)
    if as_json:
        screen.json(f"{json.dumps(record(facts))}\n")
    else:
        text = "\n".join(lines(facts))
        screen.answer(f"{text if screen.is_utf8 else text.replace('≤', '<=')}\n")


def gather(name: str, context: int | None, kv_bits: int | None, gigabytes: float | None) -> Facts:
    """Collect the facts about `name`, from this machine or from the hub's headers.

    gigabytes: memory of a Mac to compute for; None means this machine. Raises as `find`.
    """
    where, config, weights, from_headers = find(name)
    place = machine.this_machine() if gigabytes is None else machine.mac(gigabytes)
    check_context(context)
    tokens = min(EVERYDAY_CONTEXT, config.context) if context is None else context
    if context is not None:
        config = config.for_context(context)
    fit = inequality.fit(config, weights, place, tokens, kv_bits)
    found = resolve.find_local(name)
    findings = () if found is None else tuple(check(found))
    kind = kinds.of_name(resolve.parse(name).repo) if found is None else kinds.of_directory(found)
    shares = None if found is None else read_shares(found)
    return Facts(where, config, weights, from_headers, kv_bits, place, fit, kind, findings, shares)


def find(name: str) -> tuple[str, Qwen3Config, inequality.Weights, bool]:
    """A model's place, its configuration and weights, and whether these come from headers.

    Raises as `Qwen3Config.from_dir` and `download.describe`.
    """
    found = resolve.find_local(name)
    tensors: Any = None
    if found is not None:
        where, config = str(found), Qwen3Config.from_dir(found)
        from qwen3_mlx.checkpoint.headers import checkpoint_tensors, weight_files

        if weight_files(found).names and read_shares(found) is None:
            tensors = checkpoint_tensors(found)
    else:
        from qwen3_mlx.hub import download

        description = download.describe(resolve.parse(name))
        where, config = description.where, Qwen3Config.from_dict(description.config)
        tensors = description.tensors
    if tensors is None:
        return where, config, inequality.weights_from_config(config), False
    return where, config, inequality.weights_from_headers(tensors.values()), True


def record(facts: Facts) -> dict[str, Any]:
    """What ``--json`` prints. Sizes in bytes, contexts in tokens."""
    config, fit = facts.config, facts.fit
    return {
        "model_type": config.model_type,
        "kind": facts.kind,
        "parameters": matrices.parameters(config),
        "active_parameters": matrices.active_parameters(config),
        "weight_bytes": facts.weights.stored_bytes,
        "kv_bytes_per_token": kv_cache.kv_bytes_per_token(config, facts.kv_bits),
        "native_context": config.native_context,
        "context": fit.context,
        "fits": fit.fits,
        "required_bytes": fit.required_bytes,
        "available_bytes": fit.available_bytes,
        "required": {
            "weights": fit.weight_bytes,
            "kv": fit.kv_bytes,
            "prefill": fit.scratch_bytes,
            "runtime": fit.runtime_bytes,
        },
        "available": facts.machine.why,
        "would_fit": _would_fit(facts),
        "where": facts.where,
        "shares": facts.shares and {"count": facts.shares.count, "way": facts.shares.way},
        "findings": [asdict(finding) for finding in facts.findings],
    }


def _would_fit(facts: Facts) -> list[dict[str, Any]]:
    """The alternatives that fit if this model doesn't, the least loss of quality first."""
    if facts.fit.fits:
        return []
    from qwen3_mlx.fit import alternatives

    wanted = alternatives.Workload(facts.config, facts.weights, facts.fit.context, facts.kv_bits)
    return [
        {"what": choice.what, "how": choice.how, "required_bytes": choice.fit.required_bytes}
        for choice in alternatives.ranked(wanted, facts.machine)
    ]


def lines(facts: Facts) -> Iterator[str]:
    """The report as text: the model, every term of the memory inequality, and advice."""
    config, fit = facts.config, facts.fit
    total, active = matrices.parameters(config), matrices.active_parameters(config)
    yield facts.where
    yield architecture(config)
    if facts.shares is not None:
        shares = facts.shares.description
        yield f"shared out to {shares}; the sum below is of one machine that held all"
    if facts.kind != "chat":
        doing = {"embedder": "turns texts into vectors", "reranker": "judges documents"}
        command = {"embedder": "embed", "reranker": "rerank"}[facts.kind]
        yield f"{facts.kind}: {doing[facts.kind]} (qwen3-mlx {command})"
    yield ""
    yield _row("parameters", parameters(total, 2), f"{total:,}")
    if active != total:
        yield _row("for each token", parameters(active, 2), f"{active:,}")
    yield _row("native context", f"{config.native_context:,}", "tokens; YaRN beyond (--context)")
    yield ""
    yield from _sum(facts, total)
    yield ""
    yield fit.equation
    yield f"available: {facts.machine.why}"
    yield from _advice(facts)
    if facts.findings:
        yield ""
        yield "what the files say against one another:"
        yield from (f"  {finding}" for finding in facts.findings)


def _sum(facts: Facts, total: int) -> Iterator[str]:
    """The terms of the required memory, one per row, and their sum."""
    config, fit = facts.config, facts.fit
    per_token = kv_cache.kv_bytes_per_token(config, facts.kv_bits)
    widened = "" if facts.machine.float_bytes is None else "; floats are float32 here"
    yield _row("weights", gb(fit.weight_bytes), _packing(facts, total) + widened)
    yield _row(
        "keys and values",
        gb(fit.kv_bytes),
        f"{per_token / 1e3:,.1f} kB a token, {facts.kv_bits or 16} bit{widened},"
        f" x {fit.context:,} tokens",
    )
    chunk = min(inequality.PREFILL_CHUNK, fit.context)
    yield _row("prefill", gb(fit.scratch_bytes), f"reading {chunk:,} tokens at a time")
    yield _row("runtime", gb(fit.runtime_bytes), "Python, MLX, the tokenizer")
    yield f"{'':<16}{'-' * 10}"
    over = fit.required_bytes - fit.available_bytes
    verdict = f"{gb(-over)} to spare" if fit.fits else f"{gb(over)} too much"
    remark = f"of {gb(fit.available_bytes)}: {verdict}"
    yield _row("together", gb(fit.required_bytes), remark)


def architecture(config: Qwen3Config) -> str:
    """The network's architecture on one line."""
    experts = ""
    if config.is_moe:
        experts = (
            f"{config.num_experts_per_tok} of {config.num_experts} experts of"
            f" {config.moe_intermediate_size:,} a token"
        )
    feed_forward = experts or f"feed-forward {config.intermediate_size:,}"
    tied = "tied" if config.tie_word_embeddings else "untied"
    return (
        f"{config.model_type}: {config.num_hidden_layers} layers, width {config.hidden_size:,},"
        f" {config.num_attention_heads} query and {config.num_key_value_heads} key-value heads of"
        f" {config.head_dim}, {feed_forward}, vocabulary {config.vocab_size:,} ({tied})"
    )


def _advice(facts: Facts) -> Iterator[str]:
    """The longest context that fits, or the alternatives if the model doesn't fit."""
    config, fit = facts.config, facts.fit
    if fit.fits:
        longest = inequality.largest_context(config, facts.weights, facts.machine, facts.kv_bits)
        yield f"longest native context that fits: {longest:,} tokens"
        return
    from qwen3_mlx.fit import alternatives

    yield ""
    yield "what would fit, the least loss first:"
    wanted = alternatives.Workload(config, facts.weights, fit.context, facts.kv_bits)
    yield from (f"  {line}" for line in alternatives.advice(wanted, facts.machine))


def _packing(facts: Facts, total: int) -> str:
    source = "" if facts.from_headers else ", computed from the config"
    bits = f"{8 * facts.weights.stored_bytes / total:.2f} bits a weight"
    if facts.config.quantization is None:
        return f"{bits}{source}"
    spec = facts.config.quantization.default
    return f"{bits}: {spec.bits} bits in groups of {spec.group_size}{source}"


def _row(name: str, value: str, remark: str) -> str:
    return f"{name:<16}{value:>10}   {remark}"

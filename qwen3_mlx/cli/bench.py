"""``qwen3-mlx bench``: prefill and decode rates of one model here, beside mlx-lm if asked."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qwen3_mlx.cli import complete
from qwen3_mlx.cli import options as opt

if TYPE_CHECKING:
    from qwen3_mlx.nn.transformer import Qwen3

Rates = tuple[float, float]
"""Prefill and decode, tokens a second."""

NOISY = 0.05


def ours(network: Qwen3, prompt: list[int], tokens: int) -> Rates:
    """One greedy run through the engine."""
    import mlx.core as mx

    from qwen3_mlx.engine.decode import Decoder
    from qwen3_mlx.engine.prefill import prefill
    from qwen3_mlx.engine.prompt_cache import PromptCache
    from qwen3_mlx.engine.sample import Sampler
    from qwen3_mlx.options import Sampling

    cache = PromptCache(network)
    start = time.perf_counter()
    logits = prefill(network, prompt, cache)
    assert logits is not None
    mx.eval(logits)
    read = time.perf_counter()
    sampler = Sampler(Sampling(0.0, 1.0, 0, 0.0, 0.0, 1.0), logits.shape[-1])
    decoder = Decoder(network, cache, sampler, logits)
    for _ in range(2):  # what is compiled, is compiled here
        decoder.step()
    begin = time.perf_counter()
    for _ in range(tokens):
        decoder.step()
    return len(prompt) / (read - start), tokens / (time.perf_counter() - begin)


def mlx_lm(path: Path) -> Callable[[list[int], int], Rates]:
    """A function that runs mlx-lm's ``generate_step`` on the checkpoint at `path`."""
    from qwen3_mlx.errors import OptionError

    try:
        from mlx_lm import load
        from mlx_lm.generate import generate_step
    except ImportError:
        hint = "run: pip install mlx-lm"
        raise OptionError("--against mlx-lm", got="mlx-lm is missing", hint=hint) from None
    import mlx.core as mx

    model = load(str(path))[0]

    def once(prompt: list[int], tokens: int) -> Rates:
        start = time.perf_counter()
        steps = generate_step(mx.array(prompt), model, max_tokens=tokens + 3)
        next(steps)
        read = time.perf_counter()
        for _ in range(2):
            next(steps)
        begin = time.perf_counter()
        for _ in range(tokens):
            next(steps)
        took = time.perf_counter() - begin
        steps.close()
        return len(prompt) / (read - start), tokens / took

    return once


def table(samples: dict[str, list[Rates]]) -> str:
    """A Markdown table of medians, fit for an issue; more than 5 % of spread is marked."""
    lines = ["| | prefill tok/s | decode tok/s |", "|---|---|---|"]
    for name, rates in samples.items():
        cells = []
        for values in zip(*rates, strict=True):
            spread = statistics.pstdev(values) / statistics.fmean(values)
            mark = f" (± {100 * spread:.0f} %)" if spread > NOISY else ""
            cells.append(f"{statistics.median(values):.1f}{mark}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(model: str, against: str | None, context: int, tokens: int, rounds: int) -> int:
    """Measure, interleaved in an order shuffled anew each round, and print one table."""
    from qwen3_mlx.checkpoint import load_network
    from qwen3_mlx.cli.doctor import machine
    from qwen3_mlx.hub import resolve

    path = resolve(model)
    network, config = load_network(path)
    prompt = [(7 * i * i + 3 * i) % config.vocab_size for i in range(context)]
    arms: dict[str, Callable[[], Rates]] = {"qwen3-mlx": lambda: ours(network, prompt, tokens)}
    if against == "mlx-lm":
        theirs = mlx_lm(path)
        arms["mlx-lm"] = lambda: theirs(prompt, tokens)
    samples: dict[str, list[Rates]] = {name: [] for name in arms}
    for turn in range(rounds + 1):  # the first warms up
        for name in random.sample(list(arms), len(arms)):
            rates = arms[name]()
            if turn:
                samples[name].append(rates)
    for name, state in machine():
        typer.echo(f"{name}: {state}")
    typer.echo(
        f"{model}, {context} tokens of context, {tokens} decoded, {rounds} rounds, medians\n"
    )
    typer.echo(table(samples))
    return 0


def command(
    model: Annotated[
        str, typer.Argument(help="The model.", autocompletion=complete.models)
    ] = "demo",
    against: Annotated[
        Literal["mlx-lm"] | None,
        typer.Option(help="Measure this too, on the same weights, in the same run."),
    ] = None,
    context: Annotated[int, typer.Option(min=2, metavar="N", help="Tokens of prompt.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens to decode.")] = 128,
    rounds: Annotated[int, typer.Option(min=2, metavar="N", help="Samples of each.")] = 5,
    debug: opt.Debug = False,
) -> None:
    """Measure how fast a model reads and writes here, as a table to paste into an issue.

    Each round runs every side once, in a new order; the table has medians, and marks a spread
    of more than 5 percent. Ratios between sides mean something, bare numbers little.

    Examples:

        qwen3-mlx bench
        qwen3-mlx bench 30b-a3b --against mlx-lm
    """
    raise typer.Exit(run(model, against, context, tokens, rounds))

"""``qwen3-mlx bench``: measures a model's prefill and decode rates, optionally beside mlx-lm's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli import record_file
from qwen3_mlx.cli.settings import suggestions
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import OptionError, gb

if TYPE_CHECKING:
    from qwen3_mlx.bench.rates import Rates
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.nn.transformer import Qwen3Network

Record = Annotated[
    Path | None,
    opt.option("FILE", "Write all samples there, as JSON.", callback=record_file.checked),
]

SIZES = {"cpu": (128, 16, 3)}
"""Default prompt tokens, decoded tokens and rounds by device; `LARGE` for other devices."""
LARGE = (512, 128, 5)

NOTICED_S = 1.0
"""Compile time in seconds above which a note reports it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to measure, and a function that loads the same weights in mlx-lm."""

    name: str
    network: Qwen3Network
    config: Qwen3Config
    mlx_lm: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Roofline:
    """The upper bound of the decode rate: measured bandwidth (bytes/s) over bytes per token."""

    bytes_per_token: int
    bandwidth: float

    @property
    def tokens(self) -> float:
        """Tokens per second."""
        return self.bandwidth / self.bytes_per_token


def from_checkpoint(model: str) -> Subject:
    """Load the network of `model`. Raises as `resolve` and `load_network`."""
    from qwen3_mlx.checkpoint import load_network
    from qwen3_mlx.hub.resolve import resolve

    path = resolve(model)
    network, config = load_network(path)

    def theirs() -> Any:
        from mlx_lm import load

        return load(str(path))[0]

    return Subject(model, network, config, theirs)


def from_shape(shape: str, recipe: str, layers: int | None, context: int) -> Subject:
    """A network of `shape` with random weights. Raises `OptionError` if it doesn't fit."""
    from qwen3_mlx.bench import random_network
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.fit import inequality
    from qwen3_mlx.fit.machine import this_machine

    for option, value, known in (
        ("shape", shape, random_network.SHAPES),
        ("recipe", recipe, random_network.RECIPES),
    ):
        if value not in known:
            raise OptionError(f"--{option}", got=value, expected=", ".join(known))
    values = random_network.config_values(shape, recipe, layers)
    config = Qwen3Config.from_dict(values)
    place = this_machine()
    fit = inequality.fit(config, inequality.weights_from_config(config), place, context)
    if not fit.fits:
        raise OptionError(
            f"bench --shape {shape} --recipe {recipe}",
            got=f"{gb(fit.required_bytes)} needed",
            expected=f"at most {gb(fit.available_bytes)}, {place.why}",
            hint="take a smaller shape or recipe, or --layers N for its first N layers",
        )
    network = random_network.network(config)
    first = f", first {layers} layers" if layers else ""
    name = f"{shape} {recipe} (random weights{first})"
    return Subject(name, network, config, lambda: random_network.mlx_lm_twin(network, values))


def sides(subject: Subject, against: str | None, ids: list[int], tokens: int) -> dict[str, Any]:
    """By the side's name, a function that measures it once: qwen3-mlx, and perhaps mlx-lm."""
    from qwen3_mlx.bench import rates as speed

    arms: dict[str, Callable[[], Rates]] = {
        "qwen3-mlx": lambda: speed.ours(subject.network, ids, tokens)
    }
    if against == "mlx-lm":
        theirs = subject.mlx_lm()
        arms["mlx-lm"] = lambda: speed.theirs(theirs, ids, tokens)
    return arms


def rows(samples: dict[str, list[Rates]]) -> dict[str, Any]:
    """Summaries of each side's prefill and decode rates."""
    from qwen3_mlx.bench.measure import summary

    return {
        name: {
            "prefill": summary([rate.prefill for rate in rates]),
            "decode": summary([rate.decode for rate in rates]),
        }
        for name, rates in samples.items()
    }


def table(measured: dict[str, Any], roofline: Roofline) -> Iterator[str]:
    """A Markdown table of the medians; a spread of more than 5 % is marked."""
    yield "| | prefill tok/s | decode tok/s | of roofline |"
    yield "|---|---|---|---|"
    for name, row in measured.items():
        share = row["decode"]["median"] / roofline.tokens
        yield f"| {name} | {_cell(row['prefill'])} | {_cell(row['decode'])} | {share:.0%} |"
    if len(measured) == 2:
        mine, other = measured.values()
        ratios = [mine[key]["median"] / other[key]["median"] for key in ("prefill", "decode")]
        yield f"| ratio | {ratios[0]:.2f} × | {ratios[1]:.2f} × | |"


def _cell(number: dict[str, Any]) -> str:
    mark = f" (± {100 * number['cv']:.0f} %)" if number["noisy"] else ""
    return f"{number['median']:.1f}{mark}"


def run(
    subject: Subject,
    against: str | None,
    sizes: tuple[int, int, int],
    record: Path | None = None,
) -> int:
    """Measure all sides, interleaved in an order shuffled each round, and print one table.

    record: where all samples are written as JSON. Returns the exit code.
    """
    from qwen3_mlx.bench import random_network
    from qwen3_mlx.bench import rates as speed
    from qwen3_mlx.bench.measure import interleaved
    from qwen3_mlx.cli.commands.doctor import machine, paths

    context, tokens, rounds = sizes
    ids = speed.prompt(context, min(subject.config.vocab_size, 1000))
    measured = rows(interleaved(sides(subject, against, ids, tokens), rounds))
    active = random_network.bytes_per_token(subject.network, subject.config, context + tokens // 2)
    roofline = Roofline(active, random_network.bandwidth())
    screen = Screen()
    for name, state in (*machine(), *paths()):
        screen.answer(f"{name}: {state}\n")
    screen.answer(
        f"{subject.name}: {context} tokens of prompt, {tokens} decoded, {rounds} rounds, medians\n"
        f"roofline: {roofline.tokens:.0f} tok/s, {gb(active, 2)} a token at "
        f"{gb(roofline.bandwidth, 0)}/s measured here\n\n"
    )
    for line in table(measured, roofline):
        screen.answer(f"{line}\n")
    if record is not None:
        results = {"model": subject.name, "context": context, "tokens": tokens, "rounds": rounds}
        results |= {"bandwidth": roofline.bandwidth, "bytes_per_token": active, "rows": measured}
        results |= {"machine": dict(machine()), "paths": dict(paths())}
        record_file.write(record, results)
    return 0


def run_rows(subject: Subject, sizes: tuple[int, int, int], record: Path | None = None) -> int:
    """Measure steps of 1 to 16 rows, print them, and save them for `doctor`."""
    from qwen3_mlx.bench import rows_reading
    from qwen3_mlx.bench.rows import Steps
    from qwen3_mlx.cli.commands.doctor import machine, paths

    steps, screen = Steps.of(subject.network), Screen()
    if (compiling := steps.compile_ahead()) > NOTICED_S:
        screen.note(f"the kernels of rows took {compiling:.0f} s to compile, as in every process")
    reading, samples = rows_reading.measured(steps, subject.name, *sizes)
    for name, state in (*machine(), *paths()):
        screen.answer(f"{name}: {state}\n")
    noisy = "; samples more than 5 % apart" if reading.noisy else ""
    screen.answer(
        f"{subject.name}: steps of rows {reading.way}, behind {sizes[0]} tokens, {sizes[1]} steps,"
        f" {sizes[2]} rounds, medians{noisy}\n\n"
    )
    for line in rows_reading.table(reading):
        screen.answer(f"{line}\n")
    screen.answer("\n× one row; in brackets the drafts that a step is best given\n")
    if save_error := rows_reading.save(reading):
        screen.note(f"doctor won't show this: it can't be kept ({save_error})")
    if record is not None:
        results = {"reading": asdict(reading), "samples": samples, "tokens": sizes[1]}
        results |= {"rounds": sizes[2], "machine": dict(machine()), "paths": dict(paths())}
        record_file.write(record, results)
    return 0


_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="The model.", autocompletion=suggestions.models)
]


def command(
    model: _Model = "demo",
    shape: Annotated[
        str | None, opt.option("NAME", "Random weights of this shape, such as 30b-a3b, instead.")
    ] = None,
    recipe: Annotated[str, opt.option("NAME", "Of --shape: 4bit, 8bit, bf16.")] = "4bit",
    layers: Annotated[
        int | None, opt.option("N", "Of --shape: the first N layers only.", min=1)
    ] = None,
    against: Annotated[
        Literal["mlx-lm"] | None,
        typer.Option(help="Measure this too, on the same weights, in the same run."),
    ] = None,
    context: Annotated[
        int | None, opt.option("N", "Tokens of prompt: 512, on a CPU 128.", min=2)
    ] = None,
    tokens: Annotated[
        int | None, opt.option("N", "Tokens to decode: 128, on a CPU 16.", min=1)
    ] = None,
    rounds: Annotated[int | None, opt.option("N", "Samples of each: 5, on a CPU 3.", min=2)] = None,
    steps_of_rows: Annotated[
        bool,
        opt.flag("--rows", "Time steps of 1 to 16 rows instead: what batches and drafts give."),
    ] = False,
    record: Record = None,
    debug: opt.Debug = False,
) -> None:
    """Measure how fast a model reads and writes here, as a table to paste into an issue.

    Each round runs every side once, in a new order, after one that warms up; the table has
    medians, marks a spread of more than 5 percent, and says how close decoding comes to the
    roofline: the bytes of one token at the bandwidth measured here. Ratios between sides mean
    something, bare numbers little. --shape needs no download.

    With --rows it times steps of 1 to 16 rows, of several sequences and of one, and says what
    several sequences at once and checked drafts would give here; `doctor` remembers that.

    Examples:

        qwen3-mlx bench
        qwen3-mlx bench 30b-a3b --against mlx-lm
        qwen3-mlx bench --shape 30b-a3b --recipe 4bit --record bench.json
        qwen3-mlx bench 8b --rows
    """
    from qwen3_mlx.device import backend

    defaults = SIZES.get(backend.device(), LARGE)
    given = (context, tokens, rounds)
    first, second, third = (
        other if value is None else value for value, other in zip(given, defaults, strict=True)
    )
    if steps_of_rows and against is not None:
        raise OptionError("--rows doesn't go with --against", hint="leave one of the two out")
    subject = from_shape(shape, recipe, layers, first + second) if shape else from_checkpoint(model)
    sizes = (first, second, third)
    if steps_of_rows:
        raise typer.Exit(run_rows(subject, sizes, record))
    raise typer.Exit(run(subject, against, sizes, record))

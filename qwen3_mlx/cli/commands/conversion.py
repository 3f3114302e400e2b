"""What ``qwen3-mlx convert`` does once its options are read."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3_mlx.cli.terminal.screen import Screen
    from qwen3_mlx.quantize.job import Job, Request

DTYPES = ("bfloat16", "float16", "float32")


def run(source: str, given: dict[str, Any]) -> int:
    """Do it; returns the exit code."""
    from qwen3_mlx.cli.terminal.screen import Screen
    from qwen3_mlx.quantize import job as jobs
    from qwen3_mlx.quantize import upload as hub

    screen = Screen()
    if given["upload"] is not None:
        hub.check_name(given["upload"])
        if not given["dry_run"]:
            hub.token()  # before hours of work, not after
    request = _request(source, given, screen)
    progress = Progress(screen)
    try:
        job = jobs.prepare(request, progress)
        if given["dry_run"]:
            progress.clear()
            screen.answer(preview(job, given["upload"]))
            return 0
        record = _learned(job, given["learned"], progress) or jobs.run(job, progress)
    finally:
        progress.clear()
    screen.answer(summary(request.out, record))
    if given["upload"] is None:
        return 0
    jobs.check_publishable(record, given["force"])
    try:
        where = hub.upload(
            request.out,
            given["upload"],
            private=given["private"],
            revision=given["revision"],
            on_progress=lambda name, done, total: progress(f"upload {name}", done, total),
        )
    finally:
        progress.clear()
    screen.answer(f"published: {where}\n")
    return 0


def _learned(job: Job, method: str | None, progress: Progress) -> dict[str, Any] | None:
    if method is None:
        return None
    from qwen3_mlx.quantize import learned

    return learned.run(job, method, progress)


def _request(source: str, given: dict[str, Any], screen: Screen) -> Request:
    """What the options ask for. Raises `OptionError` and what finding the source raises."""
    import qwen3_mlx.device.backend  # noqa: F401

    import mlx.core as mx

    from qwen3_mlx.errors import OptionError
    from qwen3_mlx.quantize import learned
    from qwen3_mlx.quantize.job import Request

    if given["dtype"] not in (None, *DTYPES):
        raise OptionError("--dtype", got=repr(given["dtype"]), expected=", ".join(DTYPES))
    if not given["shard_size"] > 0:
        raise OptionError("--shard-size", got=given["shard_size"], expected="a number above 0")
    learned.check(given["learned"])
    recipe = _recipe(given["recipe"], given["target"])
    name = original(source)
    directory = _find(name, given["dry_run"], screen)
    out = given["out"] or Path(f"{Path(name).name.partition('@')[0]}-{recipe.name}")
    return Request(
        source=directory,
        name=name,
        out=out,
        recipe=recipe,
        command=_command(name, directory, out, given),
        title=given["upload"] or "",
        dtype=getattr(mx, given["dtype"]) if given["dtype"] else None,
        allow_lossy=given["allow_lossy"],
        force=given["force"],
        verify=given["verify"],
        shard_bytes=int(given["shard_size"] * 1e9),
    )


def _recipe(name: str, target: float | None) -> Any:
    from qwen3_mlx.config import recipes
    from qwen3_mlx.errors import OptionError
    from qwen3_mlx.quantize import recipe_file

    recipe = recipe_file.read(Path(name)) if name.endswith(".toml") else recipes.find(name)
    if target is None:
        return recipe
    if recipe.target is None:
        hint = "--target goes with --recipe dynamic, or a recipe file with a target"
        raise OptionError(f"recipe {recipe.name} has no target", hint=hint)
    if not 2 <= target <= 16:
        raise OptionError("--target", got=target, expected="bits a weight, 2 to 16")
    return replace(recipe, target=target)


def original(name: str) -> str:
    """What `name` means here: for an alias, the original it was quantized from."""
    from qwen3_mlx.hub import releases

    if Path(name).is_dir():
        return name
    release = releases.find(name)
    return f"Qwen/{release.name}" if release is not None else name


def _find(name: str, local_only: bool, screen: Screen) -> Path:
    from qwen3_mlx.errors import HubError
    from qwen3_mlx.hub import names

    found = names.find_local(name)
    if found is not None:
        return found
    if local_only:
        hint = f"a dry run asks nobody; fetch it first: hf download {name.partition('@')[0]}"
        raise HubError("the source is not on this machine", got=name, hint=hint)
    screen.note(f"downloading {name}; it is kept for the next time")
    return names.resolve(name)


def _command(name: str, directory: Path, out: Path, given: dict[str, Any]) -> str:
    """The command that makes the same bytes."""
    from qwen3_mlx.quantize.origin import origin_of

    origin = origin_of(directory, name)
    source = f"{origin.repo}@{origin.revision}" if origin.repo else name
    words = ["qwen3-mlx", "convert", source, "--out", out.name, "--recipe", given["recipe"]]
    for option in ("target", "dtype", "learned"):
        if given[option] is not None:
            words += [f"--{option}", str(given[option])]
    if given["shard_size"] != 5.0:
        words += ["--shard-size", f"{given['shard_size']:g}"]
    return shlex.join(words + ["--allow-lossy"] * given["allow_lossy"])


def preview(job: Job, repo: str | None) -> str:
    """Every file and its size, and the card."""
    plan, sizes = job.plan, job.plan.files()
    text = job.card(None)
    sizes |= {"README.md": len(text.encode())}
    width = max(len(name) for name in sizes)
    lines = [f"{name:<{width}}  {size:>15,}" for name, size in sizes.items()]
    where = job.request.out if repo is None else f"{job.request.out}, then {repo}"
    total = f"{sum(sizes.values()) / 1e9:.2f} GB, {plan.bits_per_weight:.3f} bits a weight"
    head = f"would write {where}: {total}, and conversion.json with what is measured"
    return "\n".join([head, *lines, "", text])


def summary(out: Path, record: dict[str, Any]) -> str:
    """What was made and what it cost, in two lines."""
    size = f"{record['weight_bytes'] / 1e9:.2f} GB, {record['bits_per_weight']:.3f} bits a weight"
    head = f"{out}: {size}\n"
    measured, bound = record["measured"], record["recipe"]["bound"]
    if measured is None:
        return f"{head}not compared with the source\n"
    kl, same = measured["kl_mean"], measured["agreement"]
    text = f"KL divergence {kl} nats a token (bound {bound}), same first choice {same:.1%}"
    pair = f"{measured['perplexity_source']} -> {measured['perplexity_result']}"
    verdict = "" if kl is not None and kl <= bound else "; TOO FAR from the source to publish"
    return f"{head}compared with the source: {text}, perplexity {pair}{verdict}\n"


class Progress:
    """``convert: 43 %, 0.6 of 1.2 GB, 0:35 left`` on one line of a terminal's stderr."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._stage, self._drawn = screen, "", ""
        self._began = self._first = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Draw: `done` of `total`; bytes when converting, else anything."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._first = stage, now, done
        if not self._screen.err_is_styled:
            return
        text = progress_text(stage, done, total, now - self._began, int(self._first))
        if text != self._drawn:
            self._screen.err.write(f"\r\x1b[K{text}")
            self._screen.err.flush()
            self._drawn = text

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._screen.err.write("\r\x1b[K")
            self._screen.err.flush()
            self._drawn = ""


def progress_text(stage: str, done: int, total: int, seconds: float, first: int = 0) -> str:
    """The line; time left from what was done in `seconds`, which `first` was not."""
    text = f"{stage}: {100 * done // max(total, 1)} %"
    if stage == "convert":
        text += f", {done / 1e9:.1f} of {total / 1e9:.1f} GB"
    if seconds > 2 and done > first:
        left = round(seconds * (total - done) / (done - first))
        text += f", {left // 60}:{left % 60:02d} left"
    return text

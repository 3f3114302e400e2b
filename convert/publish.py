"""Convert and publish the family: plan, run, go on where it stopped, skip what is done.

    python -m convert.publish plan                          # what, how large, what is done already
    python -m convert.publish run --only 'Qwen3-4B*-4bit' --work /big/disk
    python -m convert.publish run --only 'Qwen3-8B-*' --no-upload --keep

Uploading needs a token with write permission in HF_TOKEN. Each result is removed once it is
published, unless --keep; what is done is kept in WORK/published.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import parameters, weight_shapes
from qwen3_mlx.config.recipes import Recipe, find
from qwen3_mlx.errors import OptionError, Qwen3Error
from qwen3_mlx.hub import releases as family
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import job as jobs
from qwen3_mlx.quantize import upload
from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.origin import origin_of
from qwen3_mlx.quantize.plan import stored_as

FAMILY = Path(__file__).with_name("family.toml")


@dataclass(frozen=True, slots=True)
class Entry:
    """One conversion of the family."""

    family: str
    model: str
    source: str
    recipe: str
    target: str

    @property
    def name(self) -> str:
        """The target without its owner."""
        return self.target.partition("/")[2]


def entries(file: Path = FAMILY, owner: str | None = None) -> list[Entry]:
    """All conversions `file` names. Raises `OptionError` for an unknown recipe or model."""
    values = tomllib.loads(file.read_text("utf-8"))
    owner, sources, extra = owner or values["owner"], values["source"], values["extra"]
    found = []
    for group, block in values["families"].items():
        for model in block["models"]:
            for recipe in [*block["recipes"], *extra.get(model, ())]:
                find(recipe)
                name = values["name"].format(model=model, recipe=recipe)
                source = sources.get(model, f"Qwen/{model}")
                found.append(Entry(group, model, source, recipe, f"{owner}/{name}"))
    known = {entry.model for entry in found}
    for model in [*extra, *sources]:
        if model not in known:
            raise OptionError(f"{file.name}: a model in no family", got=repr(model))
    return found


def size(entry: Entry) -> tuple[int, float]:
    """Bytes of weights and bits a weight, from the published shape alone."""
    release = next(release for release in family.RELEASES if release.name == entry.model)
    config, recipe = Qwen3Config.from_dict(release.config()), find(entry.recipe)
    count = parameters(config)
    if recipe.target is not None:  # chosen by measuring, up to this
        return int(recipe.target * count / 8), recipe.target
    total = sum(_bytes(recipe, path, shape, config) for path, shape in weight_shapes(config))
    return total, 8 * total / count


def _bytes(recipe: Recipe, path: str, shape: tuple[int, ...], config: Qwen3Config) -> int:
    spec = recipe.spec(path, config) if len(shape) > 1 else None
    return sum(tensor.nbytes for tensor in stored_as(path, shape, spec, mx.bfloat16))


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is done, a line each."""

    file: Path

    def read(self) -> dict[str, dict[str, Any]]:
        """The last line of each target; a torn or edited line counts for nothing."""
        found = {}
        lines = self.file.read_bytes().split(b"\n") if self.file.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_record(record):
                found[record["target"]] = record
        return found

    def add(self, record: dict[str, Any]) -> None:
        """Write a line; the file is flushed to the disk."""
        disk = Disk()
        disk.make_directory(self.file.parent)
        whole = not self.file.exists() or self.file.read_bytes()[-1:] in (b"\n", b"")
        with disk.create(self.file, append=True) as stream:
            disk.write(stream, (b"" if whole else b"\n") + json.dumps(record).encode() + b"\n")
            disk.sync(stream)


def _is_record(value: object) -> bool:
    """Whether `value` is what `run` writes, so that the tables can be made of it."""
    if not isinstance(value, dict) or not isinstance(value.get("target"), str):
        return False
    texts = (value.get("published"), value.get("error"))
    if "published" not in value or not all(isinstance(one, str | None) for one in texts):
        return False
    measured = value.get("measured") or {}
    numbers = [value.get(key, 0) for key in ("bytes", "bits_per_weight")]
    if not isinstance(measured, dict):
        return False
    numbers += [measured.get(key) or 0 for key in ("kl_mean", "agreement")]
    return all(isinstance(one, int | float) for one in numbers)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run."""

    work: Path
    upload: bool = True
    keep: bool = False
    private: bool = False
    force: bool = False


def run(
    chosen: Sequence[Entry], options: Options, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Do what is not done; one that fails does not keep the others. Returns all records."""
    ledger = Ledger(options.work / "published.jsonl")
    records = []
    for number, entry in enumerate(chosen, 1):
        kept = ledger.read().get(entry.target)
        if kept is not None and (kept["published"] or not options.upload) and not kept.get("error"):
            records.append(kept)
            say(f"[{number}/{len(chosen)}] {entry.target}: done before")
            continue
        say(f"[{number}/{len(chosen)}] {entry.target} from {entry.source}")
        try:
            record = one(entry, options)
        except Qwen3Error as error:
            say(f"error: {error}")
            record = _record(entry) | {"error": error.summary}
        ledger.add(record)
        records.append(record)
    return records


def one(entry: Entry, options: Options) -> dict[str, Any]:
    """Convert, verify and publish one entry. Raises what these raise."""
    if options.upload:
        upload.check_first(entry.target, private=options.private)  # before hours of work
    directory = resolve.resolve(entry.source)
    out = options.work / entry.name
    origin = origin_of(directory, entry.source)
    source = f"{origin.name}@{origin.revision}" if origin.revision else entry.source
    command = f"qwen3-mlx convert {source} --out {out.name} --recipe {entry.recipe}"
    request = jobs.ConversionRequest(
        source=directory,
        name=entry.source,
        out=out,
        recipe=find(entry.recipe),
        command=command,
        title=entry.target,
        force=options.force,
    )
    job = jobs.prepare(request)
    result = jobs.run(job)
    record = _record(entry) | {
        "revision": origin.revision,
        "bytes": result["weight_bytes"],
        "bits_per_weight": result["bits_per_weight"],
        "measured": result["measured"],
    }
    if options.upload:
        jobs.check_publishable(result, options.force)
        record["published"] = upload.upload(out, entry.target, private=options.private)
        if not options.keep:
            Disk().remove(out)
    return record


def _record(entry: Entry) -> dict[str, Any]:
    known = {"target": entry.target, "source": entry.source, "recipe": entry.recipe}
    return known | {"published": None, "error": None, "measured": None}


def plan_lines(chosen: Sequence[Entry], done: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The plan as a table, and its sum."""
    total = 0
    yield f"{'target':<52} {'source':<46} {'GB':>8} {'bits':>6}  state"
    for entry in chosen:
        nbytes, bits = size(entry)
        total += nbytes
        kept = done.get(entry.target)
        state = "to do" if kept is None else kept.get("error") or kept["published"] or "converted"
        yield f"{entry.target:<52} {entry.source:<46} {nbytes / 1e9:>8.2f} {bits:>6.3f}  {state}"
    yield f"{len(chosen)} conversions, {total / 1e9:,.0f} GB"


def summary_lines(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What came of it, as a table."""
    yield f"{'target':<52} {'GB':>8} {'bits':>6} {'KL':>9} {'same':>6}  state"
    for record in records:
        measured = record.get("measured") or {}
        kl, same = measured.get("kl_mean"), measured.get("agreement")
        cells = (
            f"{record['bytes'] / 1e9:.2f}" if "bytes" in record else "",
            f"{record['bits_per_weight']:.3f}" if "bits_per_weight" in record else "",
            "" if kl is None else f"{kl:.5f}",
            "" if same is None else f"{same:.1%}",
        )
        state = record.get("error") or record["published"] or "converted"
        gigabytes, bits, kl_text, same_text = cells
        row = f"{gigabytes:>8} {bits:>6} {kl_text:>9} {same_text:>6}"
        yield f"{record['target']:<52} {row}  {state}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("action", choices=("plan", "run"))
    add("--only", default="*", metavar="PATTERN", help="targets, without owner, as in 'Qwen3-4B*'")
    add("--owner", help="who publishes (default: as in family.toml)")
    add("--work", type=Path, default=Path("converted"), help="where results and the ledger are")
    add("--no-upload", action="store_true")
    add("--private", action="store_true")
    add("--keep", action="store_true", help="keep results that are published")
    add("--force", action="store_true", help="replace results; publish above the bound")
    args = parser.parse_args(arguments)
    chosen = [entry for entry in entries(owner=args.owner) if fnmatch(entry.name, args.only)]
    if not chosen:
        print(f"error: nothing matches {args.only!r}", file=sys.stderr)
        return 1
    if args.action == "plan":
        print("\n".join(plan_lines(chosen, Ledger(args.work / "published.jsonl").read())))
        return 0
    options = Options(args.work, not args.no_upload, args.keep, args.private, args.force)
    records = run(chosen, options, lambda text: print(text, file=sys.stderr, flush=True))
    print("\n".join(summary_lines(records)))
    return int(any(record.get("error") for record in records))


if __name__ == "__main__":
    raise SystemExit(main())

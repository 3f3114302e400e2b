"""Damaged and lying files by the thousand: nothing may crash, hang, or raise what isn't ours.

    python -m tests.corpus.mutate --count 20000 --seed 1

Each mutant is a folder of the corpus of which one file is changed: values of config.json (and of
the corpus's), of the tokenizer's files, the index or a safetensors header, or the bytes of any of
them. The loader, the converter's reader, which reads some rows of every matrix, the checker and the
text's side then read it; each must succeed or raise a `Qwen3Error`, within ten seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.check import check
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.text import ChatTemplate, Tokenizer
from tests.corpus.bases import CONVERTS, LOADS
from tests.corpus.folders import folders
from tests.corpus.variants import variants

MEMORY = "/dev/shm"
SECONDS = 10.0
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, 2**70, -(2**40), 0.5, 1e308, -1.0),
    *("", "x", "yarn", "default", "../../etc", "a\0b", "é" * 50, [], [1], ["x"], [[]], {}),
    *({"a": 1}, {"bits": 4}, {"rope_type": "yarn"}, {"quant_method": "gptq"}, "NaN", "Infinity"),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path to a value within some JSON."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value[:4])
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Change one to three places: an odd value, a key taken away, renamed, or copied elsewhere."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        found = [place for place in places(value) if place]
        if not found:
            return value
        *outer, key = rng.choice(found)
        holder = value
        for step in outer:
            holder = holder[step]
        kind = rng.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(key) + rng.choice(("_x", ".", " "))] = holder.pop(key)
        elif kind == 2 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += rng.choice((-1, 1, 8, 2**33))
        else:
            holder[key] = deepcopy(rng.choice(ODD))
    return value


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or insert bytes in the first 4,000, or anywhere."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(changed), rng.choice((4000, 10**9))) or 1)
        kind = rng.randrange(4)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + rng.choice((1, 8, 10**6))]
        elif kind == 2:
            changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 9)))
        else:
            changed[at:at] = changed[at : at + rng.randint(1, 200)]
    return bytes(changed)


def _is_sound(file: Path, data: bytes) -> bool:
    """Whether it holds JSON, or begins with it: leftovers in the corpus hold anything."""
    if file.suffix == ".safetensors":
        data = data[8 : 8 + int.from_bytes(data[:8], "little")]
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def mutate(folder: Path, rng: random.Random) -> str:
    """Change one file of the checkpoint in `folder`; returns what was done."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors"))
    file = rng.choice([*files, folder / "config.json"])
    data = file.read_bytes()
    if rng.random() < 0.3 or not _is_sound(file, data):
        file.write_bytes(mutate_bytes(data, rng))
        return f"bytes of {file.name}"
    if file.suffix == ".json":
        file.write_text(json.dumps(mutate_json(json.loads(data), rng)))
        return f"values of {file.name}"
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(mutate_json(json.loads(data[8:end]), rng)).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    return f"header of {file.name}"


def read_source(folder: Path) -> None:
    """Open it as `convert` does, and read the first rows of every matrix."""
    rows = []
    for weight in open_source(folder).weights:
        part = weight.parts[-1]
        rows.append(part.open(mx.float32)(0, min(part.shape[0], 3)))
    mx.eval(rows)


def read_text(folder: Path) -> None:
    """Its tokenizer, and its template."""
    ChatTemplate.from_dir(folder).render([{"role": "user", "content": "hi"}])
    Tokenizer.from_dir(folder).encode("hi <think>")


def fault(read: Callable[[Any], object], argument: Any) -> str | None:
    """What is wrong with how a mutant is read, if anything."""
    begin = time.monotonic()
    try:
        read(argument)
    except Qwen3Error:
        pass
    except Exception as error:
        return repr(error)[:300]
    took = time.monotonic() - begin
    return f"{took:.1f} s" if took > SECONDS else None


def hunt(work: Path, seed: int, count: int) -> list[str]:
    """Try `count` mutants; returns a line for each that isn't read or refused as it should be."""
    rng, found = random.Random(seed), []
    corpus = [variant.values for variant in variants()]
    whole = [one for one in folders() if one.outcome in (LOADS, CONVERTS)]
    for number in range(count):
        values = mutate_json(rng.choice(corpus), rng)
        name = f"mutant {number} of seed {seed}"
        if wrong := fault(Qwen3Config.from_dict, values):
            found.append(f"{name}, a config of the corpus: {wrong}")
        one = rng.choice(whole)
        folder = one.write(work / "mutant" / "model")
        done = f"{mutate(folder, rng)} of {one.name!r}"
        for reader in (load_network, read_source, check, read_text):
            if wrong := fault(reader, folder):
                found.append(f"{name}, {done}, {reader.__name__}: {wrong}")
        shutil.rmtree(work / "mutant")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    where = MEMORY if Path(MEMORY).is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as work:
        found = hunt(Path(work), options.seed, options.count)
    print(*found, f"{options.count} mutants, {len(found)} faults", sep="\n")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())

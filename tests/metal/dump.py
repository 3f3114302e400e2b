"""Writes the published shapes' Metal texts for Apple's compiler: ``python -m tests.metal.dump DIR``

Each begins as MLX's do, with its utils.h: compile with ``-I`` MLX's include folder, which
``--include`` prints. .github/workflows/metal.yml does.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import mlx.core as mx

from qwen3_mlx.bench.random_network import SHAPES
from qwen3_mlx.metal.variants import variants
from tests.metal.harness import metal_source
from tests.metal.test_language import signatures

PREAMBLE = '#include <metal_stdlib>\n#include "mlx/backend/metal/kernels/utils.h"\n'


def texts() -> dict[str, str]:
    """Every text by a file name of its own: kernel and digest."""
    published = [name for name in SHAPES if not name.startswith("tiny")]
    launches = (each for s in published for network in signatures(s) for each in variants(network))
    found = {}
    for launch in launches:
        text = PREAMBLE + metal_source(launch)
        found[f"{launch.kernel}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.metal"] = text
    return found


def include_folder() -> Path:
    """Where MLX's headers lie."""
    return Path(mx.__file__).parent / "include"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--include", action="store_true", help="print MLX's include folder only")
    given = parser.parse_args()
    if given.include or given.folder is None:
        print(include_folder())
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    written = texts()
    for name, text in written.items():
        (given.folder / name).write_text(text)
    print(f"{len(written)} texts in {given.folder}")


if __name__ == "__main__":
    main()

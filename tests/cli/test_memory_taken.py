"""Another process takes the memory while a model loads: one clear error, and the chat goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.cli.chat.load import DEMO
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.hub.resolve import resolve
from qwen3_mlx.nn.transformer import Qwen3Network
from tests.checkpoints import join
from tests.cli.tmux import PATIENCE_S, ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or Path("/proc/driver/nvidia/version").exists(),
    reason="reads /proc, and main memory is what counts on the CPU backend",
)
GB = 10**9


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's files around eight layers of zeros that become 0.4 GB in memory."""
    demo, model = resolve(DEMO), tmp_path_factory.mktemp("models") / "wide"
    shutil.copytree(demo, model, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((demo / "config.json").read_text())
    config |= {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 8}
    (model / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, array in tree_flatten(Qwen3Network(Qwen3Config.from_dict(config)).parameters()):
        offsets = [end, end + 2 * array.size]
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": offsets}
        end = offsets[1]
    with (model / "model.safetensors").open("wb") as file:
        file.write(join(header, b""))
        file.truncate(file.tell() + end)
    return model


def run(taken: int, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command on a machine of 1.5 GB, of which another takes so much in the midst of loading."""
    numbers = map(str, (3 * GB // 2, taken, GB // 8))
    return subprocess.run(
        [sys.executable, "-m", "tests.cli.memory_taken", *numbers, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"QWEN3_MLX_MEMORY_LIMIT": ""},
        timeout=PATIENCE_S,
        check=False,
    )


def test_generate_says_what_is_missing_and_what_to_do(wide: Path) -> None:
    done = run(3 * GB // 2, "generate", str(wide), "hi", "--max-tokens", "8")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    error, hint = done.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: out of memory while loading, ")
    assert " needed, " in error and error.endswith("free memory of this machine")
    assert hint.startswith("hint: close other programs or models")


def test_the_chat_goes_on_with_the_model_it_has(wide: Path) -> None:
    lines = f"/model {wide}\nWhat is 2 + 3?\n/quit\n"
    done = run(3 * GB // 2, "chat", DEMO, "--plain", "--no-think", stdin=lines)
    assert "error: out of memory while loading, " in done.stderr
    assert "from now on" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "5" in done.stdout


def test_it_loads_where_the_other_takes_little(wide: Path) -> None:
    """What the two above are about is the memory taken, not the machine's size."""
    done = run(1, "chat", DEMO, "--plain", stdin=f"/model {wide}\n/quit\n")
    assert "from now on: wide" in done.stderr
    assert done.returncode == 0

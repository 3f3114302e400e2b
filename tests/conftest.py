"""What every test runs under: float32, no network, no home of the user's, signals, bytecode."""

import contextlib
import gc
import os
import random
import secrets
import signal
import sys

os.environ["MLX_ENABLE_TF32"] = "0"  # before anything imports mlx, or float32 isn't
# Several processes share the cores: OpenBLAS's threads would wait, spinning, for each other
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# MLX hands each operation to a thread of its own, and waking it interrupts the thread that hands
# over. Under this policy it doesn't: a pass of a tiny network takes half the processor's time.
if hasattr(os, "SCHED_BATCH"):
    with contextlib.suppress(OSError):  # a container may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

from collections.abc import Iterator
from pathlib import Path

# Before any test imports MLX, which otherwise keeps a slow BLAS of its own.
import qwen3_mlx.device.backend  # noqa: F401

import pytest

# What a shell starts in the background ignores Ctrl-C, what nohup starts ignores SIGHUP, and so
# would programs under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Where the environment forbids bytecode, every program under test would compile its modules.

    Without pytest's cache nothing is kept: tests/mutate.py changes files within a second.
    """
    if sys.dont_write_bytecode and config.pluginmanager.hasplugin("cacheprovider"):
        sys.pycache_prefix = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode = False
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_finish() -> None:
    """What is collected stays to the end: twelve thousand tests, and all that they import.

    Where a test collects garbage, each look through all of that takes a third of a second.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For all tests one process more than there are cores, since many tests wait for a while.

    On two cores that takes 9:46, and two more 8:48, but tests that look at a clock need some room.
    For those that are named one, which starts sooner.
    """
    return 0 if config.option.file_or_dir else min((os.cpu_count() or 1) + 1, 6)


@pytest.fixture(autouse=True, scope="session")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn without a seed draws as in this test's last run: no test must be lucky."""
    monkeypatch.setattr(secrets, "randbits", random.Random(request.node.nodeid).getrandbits)


@pytest.fixture(scope="session")
def qwen3_files() -> Path:
    """The folder with the real Qwen3 tokenizer.json, tokenizer_config.json and configs/."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "qwen3"
    folder = Path(os.environ.get("QWEN3_FILES") or beside)
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"no real Qwen3 tokenizer files in {folder} (set QWEN3_FILES)")
    return folder

"""Proves the kernels of several rows when they are first needed, for batches or for drafts.

The first chat skips them, because proving may take minutes. A thread waits for the child processes
that prove them, and computes nothing itself; meanwhile turns run without them.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable

from qwen3_mlx.metal import dispatch, proof_parts, prove, verdict
from qwen3_mlx.metal.variants_rows import skinny_runs
from qwen3_mlx.metal.verdict import Verdict
from qwen3_mlx.nn.signature import say, signatures, verdict_file
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat


def wanted(network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED) -> list[str]:
    """The kernels of rows to try; empty unless steps of one token are fused already."""
    file = verdict_file(network, cache_format)
    if file is None or network.is_shared:
        return []
    held = verdict.read(file)
    if held is None or held.wrong.get("step"):
        return []
    if not dispatch.forced() and set(held.arms()) == {"stock"}:
        return []
    every = all(map(skinny_runs, signatures(network, cache_format)))
    names = [name for name in proof_parts.ROWS if every or name != "skinny"]
    known = {*held.right, *held.wrong}
    names = [name for name in names if name not in known or held.too_late(name)]
    return [name for name in names if not dispatch.off_reason(name)]


def run(
    network: Qwen3Network,
    cache_format: CacheFormat = AS_COMPUTED,
    skipped: Callable[[], bool] = lambda: False,
) -> Verdict | None:
    """Try the `wanted` kernels in child processes and save the verdict; None if there are none.

    Raises `prove.Skipped` as soon as `skipped` returns True, and if the machine slept.
    """
    names, file = wanted(network, cache_format), verdict_file(network, cache_format)
    if not names or file is None:
        return None
    found = prove.prove(signatures(network, cache_format), skipped=skipped, names=names)
    held = verdict.read(file) or Verdict(machine=verdict.machine())
    for name in names:
        held.wrong.pop(name, None)
    held.wrong |= found.wrong
    held.right = sorted({*held.right, *found.right} - set(held.wrong))
    held.late |= {name: held.late.get(name, 0) + 1 for name in found.late}
    held.seconds |= {f"rows, {what}": spent for what, spent in found.seconds.items()}
    if fault := verdict.write(file, held):
        say(f"what was found out about kernels of several rows can't be kept: {fault}")
    return held


class RowsOnDemand:
    """Proves the kernels of rows of one network once, in a thread beside the turns."""

    def __init__(self, network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED) -> None:
        self._network, self._cache_format = network, cache_format
        self._thread: threading.Thread | None = None
        self._asked = False
        self._over = threading.Event()

    @property
    def under_way(self) -> bool:
        """Whether child processes are proving."""
        return self._thread is not None and self._thread.is_alive()

    def ended(self) -> bool:
        """Start the proof if none was started; returns True once, when it has ended."""
        if not self._asked:
            self._asked = True
            if wanted(self._network, self._cache_format):
                say("trying the kernels of several rows beside this, once: some minutes at most")
                self._thread = threading.Thread(target=self._try, name="rows", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread = None
        atexit.unregister(self.close)
        return True

    def close(self) -> None:
        """End the child processes that still run; called at exit, or when the model is closed."""
        thread = self._thread
        self._over.set()
        if thread is not None:
            thread.join()
        atexit.unregister(self.close)

    def _try(self) -> None:
        try:
            run(self._network, self._cache_format, self._over.is_set)
        except prove.Skipped:
            if self._over.is_set():
                return
            say("the machine slept meanwhile; kernels of several rows are tried at the next start")
        except Exception as error:  # a failed proof must not cost a turn
            say(f"kernels of several rows were not tried: {error}")

"""Times whole decode steps of each arm with the real weights: are the kernels faster here?

Blocks of steps alternate between the arms, forwards and backwards, so that other load on the
machine affects all equally. An arm wins by its median and by agreement of the rounds; a tie goes to
MLX's operations, which involve less code. Nothing is sampled, so seeds keep their meaning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx

from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.fit import guard
from qwen3_mlx.metal import awake, dispatch, prove, tuning, verdict
from qwen3_mlx.metal.verdict import Arm, Reading, Verdict
from qwen3_mlx.nn.ahead import Ahead
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.fused_step import FusedStep, kernels_of
from qwen3_mlx.nn.signature import signatures, verdict_file
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.nn.trial_outcome import LIMIT_S, ROUNDS, decide
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

PASTS = (256, 4096)
"""Past tokens at which steps are timed; `LONG` of a fused step lies between them."""

STEPS, FEWEST_STEPS = 8, 4
SLOW_S = 0.05
"""Seconds per step from which blocks have `FEWEST_STEPS`, and only the shorter past is timed."""

clock: Callable[[], float] = time.perf_counter

Skipped = Callable[[], bool]
Further = Callable[
    [Qwen3Network, CacheFormat, Verdict, Skipped], tuple[dict[str, tuning.Cut], dict[str, float]]
]


def never() -> bool:
    """The default of `skipped`: the trial is never skipped."""
    return False


def wanted(network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED) -> bool:
    """Whether a trial of `network` on this machine has something to find out."""
    file = verdict_file(network, cache_format)
    if file is None or dispatch.forced() or network.is_shared:
        return False  # a step of a shared network needs all machines: one alone would wait for ever
    held = verdict.read(file)
    if held is None or held.too_late("step"):
        return True
    return held.undecided and len(_arms(network, cache_format, held)) > 1


def run(
    network: Qwen3Network,
    cache_format: CacheFormat = AS_COMPUTED,
    model: str = "",
    *,
    again: bool = False,
    rows: bool = True,
    further: Further | None = None,
    skipped: Skipped = never,
) -> tuple[Verdict | None, str | None]:
    """Find out what is unknown about `network`'s kernels, save the verdict, and apply it.

    again: ignore the saved verdict. rows: also try the kernels of several rows, which only
    batches need. further: `trial_cuts.best_cuts`, to try other cuts too. Returns the verdict
    (None if no kernel could run) and the reason why it could not be saved; it is then not
    applied. Raises `prove.Skipped`.
    """
    file = verdict_file(network, cache_format)
    if file is None or network.is_shared:
        return None, None
    before = None if again else verdict.read(file)
    held = before
    if held is None or held.too_late("step"):
        ahead = Ahead(_pieces(network, cache_format), signatures(network, cache_format))
        held = prove.prove(ahead.signatures, skipped=skipped, meanwhile=ahead, rows=rows)
        held.seconds |= ahead.seconds
        if fault := _keep(file, held, before, model):
            return held, fault
    arms = _arms(network, cache_format, held)
    if held.undecided and len(arms) > 1:
        begin = time.monotonic()
        spent: dict[str, float] = {}
        held.readings = readings(network, cache_format, arms, skipped, spent)
        held.tries += any(reading.noise for reading in held.readings.values())
        held.seconds |= {"fast": round(time.monotonic() - begin, 1)} | spent
        if further is not None:
            begin = time.monotonic()
            held.cuts, held.cut_gains = further(network, cache_format, held, skipped)
            held.seconds["other cuts"] = round(time.monotonic() - begin, 1)
        mx.clear_cache()
        if fault := verdict.write(file, held):
            return held, fault
    choose_backend(network, cache_format)
    return held, None


def prove_beside(
    network: Qwen3Network,
    cache_format: CacheFormat = AS_COMPUTED,
    model: str = "",
    skipped: Skipped = never,
) -> str | None:
    """The part of `run` that needs no time of this process: are a single token's kernels right?

    Child processes find out; nothing is computed here, so any thread may call it. Returns the
    reason why nothing can be timed: the verdict could not be saved, or it has yet to be tried
    again. Raises `prove.Skipped`.
    """
    file = verdict_file(network, cache_format)
    before = verdict.read(file) if file is not None else None
    if file is None or (before is not None and not before.too_late("step")):
        return None
    held = prove.prove(signatures(network, cache_format), skipped=skipped, rows=False)
    late = "its proof took too long, or had too little memory" if held.too_late("step") else None
    return _keep(file, held, before, model) or late


def _keep(file: Path, held: Verdict, before: Verdict | None, model: str) -> str | None:
    """Save a proof, which counts how often a kernel's was too late; the reason if that fails."""
    late = before.late if before is not None else {}
    held.model, held.late = model, {name: late.get(name, 0) + 1 for name in held.late}
    return verdict.write(file, held)


def _arms(network: Qwen3Network, cache_format: CacheFormat, held: Verdict) -> list[Arm]:
    """`stock`, and the arms whose kernels are all right."""

    def able(arm: Arm) -> bool:
        names = kernels_of(arm, network, cache_format)
        return not any(dispatch.off_reason(name) or held.fault(name) for name in names)

    return ["stock", *(arm for arm in verdict.ARMS if arm != "stock" and able(arm))]


def readings(
    network: Qwen3Network,
    cache_format: CacheFormat,
    arms: list[Arm],
    skipped: Skipped = never,
    spent: dict[str, float] | None = None,
) -> dict[str, Reading]:
    """A reading for each of `PASTS` that fits into the context and the memory.

    spent: receives the seconds of each part.
    """
    found: dict[str, Reading] = {}
    for past in pasts(network, len(arms)):
        begin = time.monotonic()
        runs = {arm: Run(network, cache_format, arm, past) for arm in arms}
        warm(runs, skipped)
        compiled = time.monotonic()
        found[str(past)] = timed(runs, skipped)
        if spent is not None:
            spent[f"fast, {past} tokens compiled"] = round(compiled - begin, 1)
            spent[f"fast, {past} tokens timed"] = round(time.monotonic() - compiled, 1)
        if found[str(past)].rates["stock"] * SLOW_S < 1:
            break
    return found


def warm(runs: dict[Arm, Run], skipped: Skipped = never) -> None:
    """Run each of `runs`, which compiles its kernels. Raises `prove.Skipped`."""
    for one in runs.values():
        one.seconds(2)
        if skipped():
            raise prove.Skipped


def pasts(network: Qwen3Network, arms: int) -> Iterator[int]:
    """The `PASTS` within the model's reach, whatever context is asked for, and within memory."""
    room = network.reach - (ROUNDS + 2) * STEPS
    for past in sorted({max(min(past, room), 1) for past in PASTS}):
        try:
            guard.require(_nbytes(network, past) * arms, "while timing kernels")
        except OutOfMemoryError:
            return
        yield past


def _pieces(network: Qwen3Network, cache_format: CacheFormat) -> Iterator[Callable[[], object]]:
    """Steps of MLX's operations with each past; on CUDA they need compiling, too."""
    for past in pasts(network, 1):
        yield lambda past=past: Run(network, cache_format, "stock", past).seconds(2)  # type: ignore[misc]  # mypy knows no lambda's default


def _nbytes(network: Qwen3Network, past: int) -> int:
    attention, dtype = network.layers[0].self_attn, network.model.norm.weight.dtype
    row = 2 * attention.kv_heads * attention.head_dim * dtype.size
    return len(network.layers) * row * (past + KVCache.step)


class Run:
    """One arm with a cache of its own, filled with zeros."""

    def __init__(
        self,
        network: Qwen3Network,
        cache_format: CacheFormat,
        arm: Arm,
        past: int,
        cuts: tuning.Cuts | None = None,
    ) -> None:
        self.cache: list[KVCache]
        if arm == "stock":
            self.forward: Callable[[mx.array, list[KVCache]], mx.array] = network
            self.cache = network.make_cache(cache_format)
        else:
            step = FusedStep(network, cache_format, (arm, arm), cuts)
            self.forward, self.cache = step, step.make_cache()
            self.step = step
        attention, dtype = network.layers[0].self_attn, network.model.norm.weight.dtype
        blank = mx.zeros((1, attention.kv_heads, past, attention.head_dim), dtype)
        for layer in self.cache:  # the values don't affect the time
            layer.append(blank, blank)
        mx.eval([layer.state for layer in self.cache])
        self.token = mx.array([0], mx.uint32)

    def seconds(self, steps: int) -> float:
        """The duration of `steps` decode steps; each is queued before the previous one is read."""
        begin = clock()
        for _ in range(steps):
            logits = self.forward(self.token[None], self.cache)
            token, self.token = self.token, mx.argmax(logits[:, -1], axis=-1)
            mx.async_eval(self.token)
            token.tolist()
        mx.eval(self.token)
        return clock() - begin

    @property
    def fault(self) -> str:
        """Why the fused step fell back to plain operations; empty if it didn't."""
        step = getattr(self, "step", None)
        return step.fault if isinstance(step, FusedStep) else ""


def timed(runs: dict[Arm, Run], skipped: Skipped = never) -> Reading:
    """Time `runs`, all of which have run before, against each other. Raises `prove.Skipped`."""
    pace = max(one.seconds(1) for one in runs.values())
    steps = STEPS if pace < SLOW_S else FEWEST_STEPS
    since, rounds = awake.now(), list[dict[Arm, float]]()
    for number in range(ROUNDS):
        order = list(runs) if number % 2 == 0 else list(reversed(runs))
        rounds.append({arm: runs[arm].seconds(steps) for arm in order})
        if skipped():
            raise prove.Skipped
        if time.monotonic() - since[1] > LIMIT_S:
            break
    failed: list[Arm] = [arm for arm, one in runs.items() if one.fault]
    found = decide([{a: t for a, t in r.items() if a not in failed} for r in rounds], steps)
    if awake.slept(since):
        found.winner, found.noise = "stock", "the machine slept meanwhile"
    return found

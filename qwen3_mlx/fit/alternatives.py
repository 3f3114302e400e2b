"""Finds alternatives that fit into memory, and checks a model before its weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from qwen3_mlx.config import Qwen3Config, matrices
from qwen3_mlx.config.recipes import RECIPES
from qwen3_mlx.errors import HubError, OutOfMemoryError, gb
from qwen3_mlx.fit import guard, inequality, machine
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.hub import releases, resolve
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

BY_QUALITY = ("8bit", "6bit", "5bit", "mixed-4-6", "4bit")
"""Recipes from best to worst, by bits per weight and measured divergence."""
SMALLEST_CONTEXT = 512
"""Context in tokens that must fit for a model to be loaded, if the user names no context."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A model with the context and the cache's bits that it should have."""

    config: Qwen3Config
    weights: inequality.Weights
    context: int
    kv_bits: int | None = None

    def fit(self, place: Machine) -> inequality.Fit:
        """The inequality on the machine `place`."""
        return inequality.fit(self.config, self.weights, place, self.context, self.kv_bits)


@dataclass(frozen=True, slots=True)
class Choice:
    """An alternative that fits."""

    what: str
    how: str
    """The option or command that selects it."""
    fit: inequality.Fit


def ranked(workload: Workload, place: Machine) -> list[Choice]:
    """The alternatives that fit in `place`, the least loss of quality first; perhaps none.

    The order: an 8-bit cache; weights in fewer bits (the most that fit, with a smaller cache if
    necessary); a shorter context; a 4-bit cache; a smaller model.
    """
    return [
        *_smaller_cache(workload, place, 8),
        *_recipe(workload, place),
        *_shorter(workload, place),
        *_smaller_cache(workload, place, 4),
        *_smaller_model(workload, place),
    ]


def smallest_mac(workload: Workload) -> int | None:
    """Memory in GB of the smallest Mac that fits the workload; None if none does."""
    return next(
        (size for size in machine.MAC_MEMORY_GB if workload.fit(machine.mac(size)).fits), None
    )


def packed(config: Qwen3Config, recipe: str) -> inequality.Weights:
    """The weights of `config` packed by `recipe`."""
    chosen = RECIPES[recipe]
    return inequality.weights_packed(config, lambda path: chosen.spec(path, config))


def _smaller_cache(workload: Workload, place: Machine, bits: int) -> Iterator[Choice]:
    if (workload.kv_bits or 16) > bits:
        fit = replace(workload, kv_bits=bits).fit(place)
        if fit.fits:
            yield Choice(f"the cache in {bits} bits", f"--kv-bits {bits}", fit)


def _recipe(workload: Workload, place: Machine) -> Iterator[Choice]:
    """The best recipe that fits, with a smaller cache only if none fits without."""
    for bits in (workload.kv_bits, 8, 4):
        if bits != workload.kv_bits and (workload.kv_bits or 16) <= (bits or 16):
            continue
        for name in BY_QUALITY:
            weights = packed(workload.config, name)
            if weights.stored_bytes >= 0.97 * workload.weights.stored_bytes:
                continue
            fit = replace(workload, weights=weights, kv_bits=bits).fit(place)
            if fit.fits:
                cache = "" if bits == workload.kv_bits else f", the cache in {bits} bits"
                option = "" if bits == workload.kv_bits else f", then --kv-bits {bits}"
                what = f"the weights in {name} ({gb(weights.stored_bytes)}){cache}"
                yield Choice(what, f"qwen3-mlx convert … --recipe {name}{option}", fit)
                return


def _shorter(workload: Workload, place: Machine) -> Iterator[Choice]:
    longest = inequality.largest_context(workload.config, workload.weights, place, workload.kv_bits)
    if SMALLEST_CONTEXT <= longest < workload.context:
        config = workload.config.for_context(longest)
        fit = replace(workload, config=config, context=longest).fit(place)
        yield Choice(f"a context of {longest:,} tokens", f"--context {longest}", fit)


def _smaller_model(workload: Workload, place: Machine) -> Iterator[Choice]:
    """The largest smaller model of the family that fits in 4 bits."""
    best: Choice | None = None
    most = 0
    for release in releases.RELEASES[:8]:
        config = Qwen3Config.from_dict(release.config())
        if workload.config.limit is not None:
            config = config.for_context(workload.context)
        weights = inequality.weights_from_config(config)
        fit = Workload(config, weights, workload.context, workload.kv_bits).fit(place)
        size = matrices.parameters(config)
        if fit.fits and most < size < matrices.parameters(workload.config):
            what = f"the model {release.alias} ({gb(weights.stored_bytes)} at 4 bits)"
            best, most = Choice(what, f"qwen3-mlx chat {release.alias}", fit), size
    if best is not None:
        yield best


def advice(workload: Workload, place: Machine) -> list[str]:
    """`ranked` as lines of text, and the smallest Mac on which the model fits unchanged."""
    choices = ranked(workload, place)
    width = max((len(choice.what) for choice in choices), default=0)
    lines = [
        f"{choice.what:<{width}}   {gb(choice.fit.required_bytes):>8}   {choice.how}"
        for choice in choices
    ]
    size = smallest_mac(workload)
    lines.append(f"this model on a Mac with {size} GB" if size else "this model on no single Mac")
    return lines


def before_download(
    name: str, context: int | None, cache_format: CacheFormat = AS_COMPUTED, *, force: bool
) -> None:
    """`check` by the hub's metadata (kilobytes), if `name` isn't on this machine yet.

    Raises `OutOfMemoryError`. Errors of the hub are left to the download.
    """
    if resolve.find_local(name) is not None:
        return
    from qwen3_mlx.hub import download

    try:
        found = download.describe(resolve.parse(name))
    except HubError:
        return
    config = Qwen3Config.from_dict(found.config)
    weights = inequality.weights_from_config(config)
    if found.tensors is not None:
        weights = inequality.weights_from_headers(found.tensors.values())
    check(name, config, weights, context, cache_format, force=force)


def check(
    name: str,
    config: Qwen3Config,
    weights: inequality.Weights,
    context: int | None,
    cache_format: CacheFormat = AS_COMPUTED,
    *,
    force: bool,
) -> str:
    """Check that a model fits before its weights are read; returns a note, or "".

    `context` tokens must fit, or `SMALLEST_CONTEXT` without one; the note says if the native
    context doesn't. On the CPU, swap counts as memory: it is slow, but works. Raises
    `OutOfMemoryError` unless `force` or the variable `CHECK` prevents it.
    """
    checked = guard.checked()
    place = machine.this_machine(swap=True)
    config = config if context is None else config.for_context(context)
    tokens = context or min(SMALLEST_CONTEXT, config.context)
    if cache_format.window is not None:  # the cache never holds more than the window
        tokens = min(tokens, cache_format.window)
    workload = Workload(config, weights, tokens, cache_format.bits)
    fit = workload.fit(place)
    if not fit.fits:
        if force or not checked:
            return f"loaded all the same: {fit.equation}"
        listed = "\n  ".join(["what would fit, the least loss first:", *advice(workload, place)])
        raise OutOfMemoryError(
            f"{name} does not fit in the memory of this machine",
            got=f"{fit.equation} ({place.why})",
            hint=f"{listed}\n  to load it all the same: {guard.CHECK}=off",
        )
    longest = inequality.largest_context(config, weights, place, cache_format.bits)
    if (
        context is not None
        or cache_format.window is not None
        or longest >= config.native_context // 256 * 256
    ):
        return ""
    return (
        f"{longest:,} of {config.native_context:,} tokens of context fit in memory"
        f" ({gb(place.available_bytes)} {place.why})"
    )

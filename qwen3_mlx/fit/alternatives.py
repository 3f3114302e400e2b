"""What would fit instead, the least loss first, and the check before weights are read."""

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
"""Recipes from the best down, as their bits a weight and measured divergence rank them."""
SMALLEST_CONTEXT = 512
"""Tokens that must fit for a model to be loaded at all, where no context is asked for."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, and what it is wanted for."""

    config: Qwen3Config
    weights: inequality.Weights
    context: int
    kv_bits: int | None = None

    def fit(self, place: Machine) -> inequality.Fit:
        """The inequality there."""
        return inequality.fit(self.config, self.weights, place, self.context, self.kv_bits)


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing to give up so that the rest fits."""

    what: str
    how: str
    """The option, or the command, that does it."""
    fit: inequality.Fit


def ranked(wanted: Workload, place: Machine) -> list[Choice]:
    """What would fit in `place`, the least loss first; empty if nothing does.

    An 8-bit cache costs next to nothing. Then packing the weights in fewer bits, the most bits
    that fit, with a smaller cache if that is needed; then a shorter context, which loses no
    quality but length; then 4 bits for the cache; then a smaller model.
    """
    return [
        *_smaller_cache(wanted, place, 8),
        *_recipe(wanted, place),
        *_shorter(wanted, place),
        *_smaller_cache(wanted, place, 4),
        *_smaller_model(wanted, place),
    ]


def smallest_mac(wanted: Workload) -> int | None:
    """GB of the smallest Mac that holds it; None: no single one."""
    return next(
        (size for size in machine.MAC_MEMORY_GB if wanted.fit(machine.mac(size)).fits), None
    )


def packed(config: Qwen3Config, recipe: str) -> inequality.Weights:
    """The weights of `config` as `recipe` packs them."""
    chosen = RECIPES[recipe]
    return inequality.weights_packed(config, lambda path: chosen.spec(path, config))


def _smaller_cache(wanted: Workload, place: Machine, bits: int) -> Iterator[Choice]:
    if (wanted.kv_bits or 16) > bits:
        fit = replace(wanted, kv_bits=bits).fit(place)
        if fit.fits:
            yield Choice(f"the cache in {bits} bits", f"--kv-bits {bits}", fit)


def _recipe(wanted: Workload, place: Machine) -> Iterator[Choice]:
    """The best recipe that fits, and if it needs a smaller cache, the best that does not."""
    for bits in (wanted.kv_bits, 8, 4):
        if bits != wanted.kv_bits and (wanted.kv_bits or 16) <= (bits or 16):
            continue
        for name in BY_QUALITY:
            weights = packed(wanted.config, name)
            if weights.stored_bytes >= 0.97 * wanted.weights.stored_bytes:
                continue
            fit = replace(wanted, weights=weights, kv_bits=bits).fit(place)
            if fit.fits:
                cache = "" if bits == wanted.kv_bits else f", the cache in {bits} bits"
                option = "" if bits == wanted.kv_bits else f", then --kv-bits {bits}"
                what = f"the weights in {name} ({gb(weights.stored_bytes)}){cache}"
                yield Choice(what, f"qwen3-mlx convert … --recipe {name}{option}", fit)
                return


def _shorter(wanted: Workload, place: Machine) -> Iterator[Choice]:
    longest = inequality.largest_context(wanted.config, wanted.weights, place, wanted.kv_bits)
    if SMALLEST_CONTEXT <= longest < wanted.context:
        fit = replace(wanted, context=longest).fit(place)
        yield Choice(f"a context of {longest:,} tokens", f"--context {longest}", fit)


def _smaller_model(wanted: Workload, place: Machine) -> Iterator[Choice]:
    """The largest model of the family that fits there in 4 bits, below the one wanted."""
    best: Choice | None = None
    most = 0
    for release in releases.RELEASES[:8]:
        config = Qwen3Config.from_dict(release.config())
        weights = inequality.weights_from_config(config)
        fit = Workload(config, weights, wanted.context, wanted.kv_bits).fit(place)
        size = matrices.parameters(config)
        if fit.fits and most < size < matrices.parameters(wanted.config):
            what = f"the model {release.alias} ({gb(weights.stored_bytes)} at 4 bits)"
            best, most = Choice(what, f"qwen3-mlx chat {release.alias}", fit), size
    if best is not None:
        yield best


def advice(wanted: Workload, place: Machine) -> list[str]:
    """`ranked` in words, a line each, and the Mac that would hold it as it is."""
    choices = ranked(wanted, place)
    width = max((len(choice.what) for choice in choices), default=0)
    lines = [
        f"{choice.what:<{width}}   {gb(choice.fit.required_bytes):>8}   {choice.how}"
        for choice in choices
    ]
    size = smallest_mac(wanted)
    lines.append(f"this model on a Mac with {size} GB" if size else "this model on no single Mac")
    return lines


def before_download(
    name: str, context: int | None, cache_format: CacheFormat = AS_COMPUTED, *, force: bool
) -> None:
    """`check` from some kilobytes of the hub's metadata, if `name` is not on this machine yet.

    Raises `OutOfMemoryError`. Where the hub does not answer, the download will say so.
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
    """Before weights are read: refuse what can't fit, else say what of the context can't.

    Returns a note, or "" if all of the context fits. With a `context` asked for, that is what
    must fit; without, `SMALLEST_CONTEXT` tokens. On the CPU swap counts as memory, as that is
    slow but no error. Raises `OutOfMemoryError`, unless `force` or `CHECK` says otherwise.
    """
    place = machine.this_machine(swap=True)
    tokens = context or min(SMALLEST_CONTEXT, config.context)
    if cache_format.window is not None:  # never more than that is held, whatever the context
        tokens = min(tokens, cache_format.window)
    wanted = Workload(config, weights, tokens, cache_format.bits)
    fit = wanted.fit(place)
    if not fit.fits:
        if force or not guard.checked():
            return f"loaded all the same: {fit.equation}"
        listed = "\n  ".join(["what would fit, the least loss first:", *advice(wanted, place)])
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

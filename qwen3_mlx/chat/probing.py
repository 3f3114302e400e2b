"""Sets up a turn's probes (automatic budget) from its options and the model's calibration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.errors import ConfigError, OptionError, shown
from qwen3_mlx.files import read_json
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.options.answer_form import must_call
from qwen3_mlx.options.auto_budget import AutoBudget
from qwen3_mlx.text import Mode

FILE = "auto_budget.json"
"""The calibration that `training.calibrate` writes beside a model's weights."""
EMPTY_BLOCK = "<think>\n\n</think>\n\n"
"""The empty thought that the chat templates write with thinking off."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The defaults of `ProbeRule` where the options leave them open.

    The values here are cautious: they serve models that nobody has calibrated.
    """

    slot: str = "The answer is"
    floor: int = 128
    interval: int = 256
    certainty: float = 0.95
    direct_certainty: float = 0.95
    agreeing: int = 2


def calibration(runtime: Runtime) -> Calibration:
    """The model's own calibration, or the defaults. Raises `ConfigError` for invalid values."""
    if runtime.path is None:
        return Calibration()
    path = runtime.path / FILE
    found: dict[str, Any] = read_json(path)
    given = {f.name: found[f.name] for f in fields(Calibration) if f.name in found}
    for name, value in given.items():
        kind = type(getattr(Calibration(), name))
        if (
            type(value) is not kind
            or (kind is not str and value < 0)
            or (not value and kind is str)
        ):
            hint = "run training.calibrate again, or remove the file"
            raise ConfigError(f"{path}: {name}", got=shown(value), hint=hint)
    return Calibration(**given)


def new_schedule(
    runtime: Runtime, options: GenerationOptions, mode: Mode, spent: int
) -> ProbeSchedule | None:
    """The probes of a turn, or None if the budget isn't automatic or nothing can be probed.

    spent: thinking tokens of the user turn's earlier steps. Raises `OptionError`.
    """
    auto = options.thinking_budget
    if not isinstance(auto, AutoBudget):
        return None
    if auto.first and runtime.family != "hybrid":
        hint = "leave first (--first) out: probes end its thoughts all the same"
        raise OptionError("this model always thinks: it can't answer first", hint=hint)
    if runtime.network.model.lead is not None:
        hint = "give a number of tokens"
        raise OptionError("an automatic budget in a group of machines", hint=hint)
    has_form = options.schema is not None or options.regex is not None
    if not mode.thinking or has_form or must_call(options.tool_choice):
        return None  # a constrained answer can't be probed by a short one
    measured, encode = calibration(runtime), runtime.tokenizer.encode

    def either(given: Any, default: Any) -> Any:
        return default if given is None else given

    direct = auto.first and not mode.starts_inside
    rule = ProbeRule(
        floor=either(auto.floor, measured.floor),
        interval=either(auto.interval, measured.interval),
        certainty=either(auto.certainty, measured.certainty),
        slot_ids=tuple(encode(measured.slot)),
        agreeing=measured.agreeing,
        direct_certainty=either(auto.certainty, measured.direct_certainty) if direct else None,
        direct_ids=tuple(encode(EMPTY_BLOCK)),
    )
    return ProbeSchedule(rule, spent)

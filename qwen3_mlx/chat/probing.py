"""The probes of a turn: what the options ask for, with the numbers measured for the model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from qwen3_mlx.answer_form import must_call
from qwen3_mlx.auto_budget import AutoBudget
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.errors import ConfigError, OptionError, shown
from qwen3_mlx.files import read_json
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text import Mode

FILE = "auto_budget.json"
"""Beside a model's weights: what `training.calibrate` found."""
EMPTY_BLOCK = "<think>\n\n</think>\n\n"
"""What the templates put before an answer without a thought."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The numbers of `ProbeRule` where the options leave them open.

    These are for models that nobody has calibrated: long thoughts, and great certainty.
    """

    slot: str = "The answer is"
    floor: int = 128
    interval: int = 256
    certainty: float = 0.95
    direct_certainty: float = 0.95
    agreeing: int = 2


def calibration(runtime: Runtime) -> Calibration:
    """What stands beside the model's weights, else the defaults. Raises `ConfigError`."""
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
    """The probes of a turn whose earlier steps have thought `spent` tokens; None: there are none.

    Raises `OptionError` where the model can't do what is asked.
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
    asked_form = options.schema is not None or options.regex is not None
    if not mode.thinking or asked_form or must_call(options.tool_choice):
        return None  # what is to follow a form has no short answer
    known, encode = calibration(runtime), runtime.tokenizer.encode

    def either(given: Any, measured: Any) -> Any:
        return measured if given is None else given

    direct = auto.first and not mode.starts_inside
    rule = ProbeRule(
        floor=either(auto.floor, known.floor),
        interval=either(auto.interval, known.interval),
        certainty=either(auto.certainty, known.certainty),
        slot_ids=tuple(encode(known.slot)),
        agreeing=known.agreeing,
        direct_certainty=either(auto.certainty, known.direct_certainty) if direct else None,
        direct_ids=tuple(encode(EMPTY_BLOCK)),
    )
    return ProbeSchedule(rule, spent)

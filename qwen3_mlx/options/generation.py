"""The options of a turn, Qwen's sampling presets, and the formats of the KV cache."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from qwen3_mlx.errors import OptionError, shown
from qwen3_mlx.options.answer_form import plain_schema, plain_tool_choice
from qwen3_mlx.options.auto_budget import AutoBudget, most_tokens, read_budget
from qwen3_mlx.options.plain_numbers import biases, ranged, whole, within
from qwen3_mlx.options.plain_words import is_word, switch, whole_characters
from qwen3_mlx.options.thinking_budget import STOP_TEXT
from qwen3_mlx.options.unknown import unknown_option

Family = Literal["hybrid", "thinking", "instruct", "coder"]
"""hybrid: Qwen3 of April 2025, both modes; thinking, instruct: the 2507 releases; coder."""

NEVER_THINK: frozenset[Family] = frozenset({"instruct", "coder"})
"""The families without a thinking mode."""

DEFAULT_MAX_TOKENS: dict[Family, int] = {
    "hybrid": 32_768,
    "thinking": 81_920,
    "instruct": 16_384,
    "coder": 65_536,
}
"""The defaults of `max_tokens`: the "adequate output length" of the model cards."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. Temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0


THINKING = Sampling(temperature=0.6, top_p=0.95, top_k=20)
NOT_THINKING = Sampling(temperature=0.7, top_p=0.8, top_k=20)
CODER = replace(NOT_THINKING, repetition_penalty=1.05)


def preset(family: Family, thinking: bool) -> Sampling:
    """Qwen's recommended sampling for a family and mode (model cards, "Best Practices")."""
    if family == "coder":
        return CODER
    return THINKING if thinking else NOT_THINKING


def check_context(tokens: Any) -> int | None:
    """`tokens` as an int from 1 to 2**31 - 1, or None. Raises `OptionError`."""
    found: int | None = ranged("context", tokens, 1, 2**31 - 1, "1 to 2**31 - 1 tokens", True)
    return found


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """The format of the KV cache. Raises `OptionError` for an invalid value or combination."""

    bits: int | None = None
    """8 or 4 bits, quantised in groups; None keeps the dtype computed in."""
    window: int | None = None
    """Attention sees only the last `window` tokens and the first `sinks`; None: all tokens."""
    sinks: int = 4

    def __post_init__(self) -> None:
        bits = None if self.bits is None else whole(self.bits)
        if self.bits is not None and bits not in (4, 8):
            raise OptionError("kv-bits", got=shown(self.bits), expected="8 or 4, or nothing for 16")
        window = ranged("kv-window", self.window, 64, 2**31 - 1, "64 to 2**31 - 1 tokens", True)
        sinks = within(self.sinks, 0, 1024, integer=True)
        if sinks is None:
            raise OptionError("kv-sinks", got=shown(self.sinks), expected="0 to 1024 tokens")
        for name, value in (("bits", bits), ("window", window), ("sinks", sinks)):
            object.__setattr__(self, name, value)
        if self.bits is not None and self.window is not None:
            hint = "a window bounds the memory by itself; leave one of the two out"
            raise OptionError("kv-bits and kv-window don't go together", hint=hint)

    def check(self, head_dim: int) -> None:
        """Raise `OptionError` if `bits` is set and no group size divides `head_dim`."""
        if self.bits is not None:
            self.group(head_dim)

    def group(self, head_dim: int) -> int:
        """Values per scale and bias: 64, or 32 if 64 doesn't divide `head_dim`; `OptionError`."""
        for group in (64, 32):
            if head_dim % group == 0:
                return group
        raise OptionError(
            f"kv-bits {self.bits}",
            got=f"a model with head_dim {head_dim}",
            expected="a multiple of 32: keys and values are packed in groups of 64 or 32",
            hint="leave --kv-bits out",
        )

    def __str__(self) -> str:
        if self.bits is not None:
            return f"{self.bits} bits"
        if self.window is not None:
            return f"a window of {self.window:,} tokens"
        return "the dtype computed in"


AS_COMPUTED = CacheFormat()

_SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))

LARGEST = 2**63 - 1
"""The largest integer of any option: Python can't format ints of more than 4,300 digits."""

# option -> (minimum, maximum, the range in words); the value None is always valid.
_RANGES: dict[str, tuple[float, float, str]] = {
    "thinking_budget": (0, math.inf, "0 or more tokens"),
    "max_tokens": (1, math.inf, "1 or more tokens"),
    "temperature": (0, 100, "a number from 0 (greedy) to 100"),
    "top_p": (1e-9, 1, "a number from 1e-9 to 1"),
    "top_k": (0, math.inf, "0 (off) or more"),
    "min_p": (0, 1, "a number from 0 to 1"),
    "presence_penalty": (-2, 2, "a number from -2 to 2"),
    "repetition_penalty": (1e-3, 100, "a number from 0.001 to 100"),
    "frequency_penalty": (-2, 2, "a number from -2 to 2"),
    "min_tokens": (0, math.inf, "0 or more tokens"),
    "logprobs": (0, 20, "0 to 20 tokens beside the one drawn"),
    "prefill_chunk": (1, math.inf, "1 or more tokens, or None to leave it to the memory"),
}
_INTEGERS = {
    *("thinking_budget", "max_tokens", "top_k", "prefill_chunk", "seed"),
    *("min_tokens", "logprobs"),
}


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """The options of a turn; None selects the default of the model's family and mode.

    Raises `OptionError` for a value outside its range.
    """

    thinking: bool | None = None
    """Whether to think before answering; None is the model's default."""
    thinking_budget: int | str | Mapping[str, Any] | AutoBudget | None = None
    """The most tokens of thinking; None is no limit, 0 is ``thinking=False``.

    ``"auto"``, ``"auto:2048"``, ``"low"``, ``"medium"`` or a dict of `AutoBudget`'s fields end
    the thinking once probes find its answer certain; ``"high"`` is no limit."""
    max_tokens: int | None = None
    """The most generated tokens, stop text included; must exceed budget + stop text."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    """Subtracted once from the logit of every token generated so far."""
    repetition_penalty: float | None = None
    """Divides positive logits, multiplies negative ones, of every token of prompt and answer."""
    frequency_penalty: float | None = None
    """Subtracted from a token's logit once per time that it was generated."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of these token ids, -100 to 100, before all other changes."""
    stop: str | Sequence[str] | None = None
    """Texts that end the turn, also across token borders; the reply doesn't include them."""
    stop_in: Literal["answer", "thinking", "both"] = "answer"
    """The text in which `stop` is searched."""
    min_tokens: int | None = None
    """Before so many generated tokens neither the model nor `stop` can end the turn."""
    logprobs: int | None = None
    """Report each token's log probability, and those of so many likeliest at its position."""
    schema: Mapping[str, Any] | str | type | bool | None = None
    """The answer is JSON valid under this JSON schema: a dict, its text, or a pydantic model."""
    regex: str | None = None
    """The whole answer matches this regular expression (Rust's syntax)."""
    tool_choice: str | Mapping[str, Any] | None = None
    """``"required"``: one call or more; ``"none"``: none; ``{"name": …}``: a call of that tool."""
    seed: int | None = None
    """The same seed samples the same tokens; None is random."""
    stop_text: str = STOP_TEXT
    special_tokens_in_text: bool = False
    """Encode ``<|im_end|>`` in a message as the token, as transformers does; False: as letters."""
    prefill_chunk: int | None = None
    """Prompt tokens per forward pass; None is 2,048, or fewer if memory is short."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "thinking_budget", read_budget(self.thinking_budget))
        for name, (low, high, expected) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, AutoBudget):
                continue
            value = ranged(name, value, low, high, expected, name in _INTEGERS)
            if high == math.inf and value is not None and value > LARGEST:
                raise OptionError(name, got=shown(value), expected="at most 2**63 - 1")
            object.__setattr__(self, name, value)
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", biases(self.logit_bias))
        object.__setattr__(self, "schema", plain_schema(self.schema))
        object.__setattr__(self, "tool_choice", plain_tool_choice(self.tool_choice))
        self._check_words()
        self._check_form()
        expected = "0 to 2**63 - 1, or none: a random one"
        seed = ranged("seed", self.seed, 0, LARGEST, expected, True)
        object.__setattr__(self, "seed", seed)
        if self.thinking and self.thinking_budget == 0:
            raise OptionError(
                "thinking_budget 0 contradicts thinking=True",
                hint="a budget of 0 switches thinking off; leave one of the two out",
            )

    @property
    def budget(self) -> int | AutoBudget | None:
        """`thinking_budget` as parsed by `read_budget`, typed without texts and dicts."""
        found: int | AutoBudget | None = self.thinking_budget  # type: ignore[assignment]
        return found

    @property
    def thinking_limit(self) -> int | None:
        """The most tokens of thinking; None is no limit."""
        return most_tokens(self.budget)

    def _check_words(self) -> None:
        """Raise `OptionError` for what is no bool, or none of the words: ``"no"`` is true."""
        thinks: object = self.thinking
        if thinks is not None and thinks is not True and thinks is not False:
            expected = "True, False, or None for the model's default"
            raise OptionError("thinking", got=shown(self.thinking)[:80], expected=expected)
        switch("special_tokens_in_text", self.special_tokens_in_text)
        whole_characters("stop_text", self.stop_text)
        if not is_word(self.stop_in, "answer", "thinking", "both"):
            expected = "'answer', 'thinking' or 'both'"
            raise OptionError("stop_in", got=shown(self.stop_in)[:80], expected=expected)

    def _check_form(self) -> None:
        if self.regex is not None and not isinstance(self.regex, str):
            raise OptionError("regex", got=shown(self.regex)[:80], expected="a pattern's text")
        if self.schema is not None and self.regex is not None:
            raise OptionError("schema and regex don't go together", hint="leave one of them out")
        if self.min_tokens and (self.schema is not None or self.regex is not None):
            hint = "the grammar says when the answer is complete; leave min_tokens out"
            raise OptionError("min_tokens doesn't go with schema and regex", hint=hint)

    def override(self, changes: Mapping[str, Any]) -> GenerationOptions:
        """A copy with the options in `changes` replaced. Raises `OptionError` for unknown names."""
        known = {field.name for field in fields(self)}
        for name in changes:
            if name not in known:
                raise unknown_option(name, known)
        return replace(self, **changes)

    def sampling(
        self, family: Family, thinking: bool, generation_config: Mapping[str, Any]
    ) -> Sampling:
        """These options, else generation_config.json's values, else Qwen's preset for the mode.

        generation_config.json holds the values of a model's default mode, which is thinking for a
        hybrid; a hybrid that doesn't think uses the preset. Raises `OptionError`.
        """
        base = preset(family, thinking)
        if family != "hybrid" or thinking:
            base = with_generation_config(base, generation_config)
        return self._over(base)

    def _over(self, base: Sampling) -> Sampling:
        chosen = {name: getattr(self, name) for name in _SAMPLING_FIELDS}
        return replace(base, **{name: value for name, value in chosen.items() if value is not None})


def with_generation_config(base: Sampling, generation_config: Mapping[str, Any]) -> Sampling:
    """`base` with the sampling values of a checkpoint's generation_config.json.

    ``do_sample: false`` means temperature 0. Raises `OptionError` for a value out of range; the
    message names the file.
    """
    names = [name for name in _SAMPLING_FIELDS if generation_config.get(name) is not None]
    try:
        said = GenerationOptions(**{name: generation_config[name] for name in names})
    except OptionError as error:
        raise OptionError(
            f"generation_config.json: {error.what}",
            got=error.got,
            expected=error.expected,
            hint="correct the file beside the weights, or remove that key from it",
        ) from None
    sampling = said._over(base)
    if generation_config.get("do_sample") is False:
        return replace(sampling, temperature=0.0)
    return sampling

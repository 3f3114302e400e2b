"""Settings for every run: config.toml, and variables such as ``QWEN3_MLX_BUDGET``.

A command's options override variables, these override the file, and the file overrides built-in
defaults. A key missing from the file, an empty variable and the value ``default`` set nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from qwen3_mlx.errors import ConfigError, OptionError, shown
from qwen3_mlx.files import own_folder, read_small
from qwen3_mlx.options import NEVER_THINK, Family, GenerationOptions
from qwen3_mlx.options.auto_budget import most_tokens, read_budget

LARGEST = 2**20
"""Largest config.toml that is read, in bytes."""
DEFAULT = "default"
"""The value that stands for the built-in one."""
ShowThinking = Literal["always", "live", "never"]
"""When a chat shows the thinking."""
SHOW_THINKING = get_args(ShowThinking)
THEMES = ("auto", "dark", "light", "none")
_WORDS = {"true": True, "on": True, "yes": True, "1": True}
_WORDS |= dict.fromkeys(("false", "off", "no", "0"), False)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the settings. `option` is its name in `GenerationOptions`, if it has one."""

    name: str
    kind: type
    help: str
    builtin: str = "the model's own"
    """The default, in words."""
    choices: tuple[str, ...] = ()
    option: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"QWEN3_MLX_{self.name.upper()}"

    def from_text(self, text: str) -> Any:
        """Parse a value from a variable or a command. Raises `ConfigError`."""
        value: Any = text
        if self.kind is bool:
            value = _WORDS.get(text.strip().lower(), text)
        elif self.kind is not str:
            number: Callable[[str], Any] = int if self.kind is int else float
            try:
                value = number(text)
            except ValueError:
                value = text
        return self.checked(value)

    def checked(self, value: Any) -> Any:
        """`value` if it is valid for this key. Raises `ConfigError`."""
        if self.option and self.kind is not bool:
            try:
                GenerationOptions(**{self.option: value})
            except OptionError as error:
                raise ConfigError(self.name, got=error.got, expected=error.expected) from None
            return value
        wrong = type(value) is not self.kind or (self.choices and value not in self.choices)
        if wrong or (self.name == "context" and value < 1) or (self.name == "model" and not value):
            raise ConfigError(self.name, got=shown(value), expected=self.expected)
        return value

    @property
    def expected(self) -> str:
        """The valid values, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.name == "model":
            return "an alias, a directory, or a repository owner/name"
        kinds = {bool: "true or false", int: "1 or more tokens", str: "a text"}
        return kinds[self.kind]


def _sampling(name: str, kind: type, help: str) -> Key:
    return Key(name, kind, help, "Qwen's preset for the mode", option=name)


KEYS = {
    key.name: key
    for key in (
        Key("model", str, "the model of `chat`, `generate` and `info`", "the last chat's, or demo"),
        Key("thinking", bool, "think before answering", option="thinking"),
        Key("budget", int, "tokens of thinking, or auto", "no limit", option="thinking_budget"),
        Key("max_tokens", int, "generated tokens at most, in all", option="max_tokens"),
        Key("context", int, "tokens of conversation at most"),
        Key("system", str, "the system prompt", "none"),
        _sampling("temperature", float, "0 is greedy"),
        _sampling("top_p", float, "draw from the likeliest with this probability together"),
        _sampling("top_k", int, "draw from so many of the likeliest; 0 is off"),
        _sampling("min_p", float, "drop what is less likely than this share of the likeliest"),
        _sampling("presence_penalty", float, "against loops: off the score of what was said"),
        _sampling("repetition_penalty", float, "divides the score of what was seen; 1 is off"),
        Key("show_thinking", str, "when a chat shows its thoughts", "live", SHOW_THINKING),
        Key("plain", bool, "chat line by line", "false"),
        Key("theme", str, "colours of the full screen", "auto", THEMES),
    )
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and its source: a variable's name, or ``file``."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The valid settings, and an error for each invalid one."""

    values: Mapping[str, Setting]
    problems: tuple[ConfigError, ...] = ()

    def get(self, name: str) -> Any:
        """The value of a key; None if it isn't set."""
        return self.values[name].value if name in self.values else None

    def options(self) -> dict[str, Any]:
        """The set keys that are options of a turn, by the option's name."""
        return {KEYS[n].option: s.value for n, s in self.values.items() if KEYS[n].option}


def file() -> Path:
    """The path of config.toml: in ``QWEN3_MLX_HOME``, else the platform's config directory."""
    return own_folder("config") / "config.toml"


def load() -> Settings:
    """All settings. Raises `ConfigError` for the first invalid one."""
    settings = read_all()
    if settings.problems:
        raise settings.problems[0]
    return settings


def read_all() -> Settings:
    """All valid settings, and the errors of the invalid ones."""
    found: dict[str, Setting] = {}
    problems: list[ConfigError] = []
    path = file()
    try:
        values = read(path)
    except ConfigError as error:
        values = {}
        problems.append(error)
    for name, value in values.items():
        try:
            if value != DEFAULT:
                found[name] = Setting(known(name).checked(value), "file")
        except ConfigError as error:
            problems.append(_at(error, f"{path}: ", "qwen3-mlx config edit"))
    _read_variables(found, problems)
    _resolve_conflict(found, problems)
    return Settings(found, tuple(problems))


def _read_variables(found: dict[str, Setting], problems: list[ConfigError]) -> None:
    for key in KEYS.values():
        text = os.environ.get(key.variable, "")
        try:
            if text == DEFAULT:
                found.pop(key.name, None)
            elif text:
                found[key.name] = Setting(key.from_text(text), key.variable)
        except ConfigError as error:
            named = ConfigError(key.variable, got=error.got, expected=error.expected)
            problems.append(_at(named, "", f"unset {key.variable}"))


def _resolve_conflict(found: dict[str, Setting], problems: list[ConfigError]) -> None:
    """If thinking and budget contradict each other, drop the one from the file.

    If both have the same source, the conflict is a problem.
    """
    thinking, budget = found.get("thinking"), found.get("budget")
    if thinking is None or budget is None or thinking.value is not (budget.value == 0):
        return
    if thinking.source == "file" != budget.source:
        del found["thinking"]
    elif thinking.value and thinking.source != "file" == budget.source:
        del found["budget"]
    elif thinking.value:
        hint = "a budget of 0 switches thinking off; leave one of the two out"
        place = f"{file()}: " if thinking.source == "file" else ""
        problems.append(ConfigError(f"{place}thinking is true and budget 0", hint=hint))
        del found["budget"]


def known(name: str) -> Key:
    """The key `name`. Raises `ConfigError`, which suggests similar keys."""
    if name in KEYS:
        return KEYS[name]
    import difflib

    near = difflib.get_close_matches(name.replace("-", "_"), KEYS, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "qwen3-mlx config lists them"
    raise ConfigError("unknown key", got=shown(name), expected=_listed(), hint=hint)


def _listed() -> str:
    return f"one of {', '.join(KEYS)}"


def _at(error: ConfigError, place: str, hint: str) -> ConfigError:
    return ConfigError(
        place + error.what, got=error.got, expected=error.expected, hint=error.hint or hint
    )


def read(path: Path) -> dict[str, Any]:
    """The parsed file, unchecked; empty if it is missing. Raises `ConfigError`."""
    import tomllib

    hint = "qwen3-mlx config edit"
    try:
        return tomllib.loads(text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML", got=str(error), hint=hint) from None


def text(path: Path) -> str:
    """The file's text, "" if it is missing. Raises `ConfigError`, or `ValueError` if not UTF-8."""
    try:
        return read_small(path, LARGEST).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        got = error.strerror or str(error)
        raise ConfigError(f"{path} can't be read", got=got, hint="check its owner") from None


def apply_defaults(
    given: GenerationOptions, defaults: Mapping[str, Any], family: Family | None = None
) -> GenerationOptions:
    """Complete a command's options `given` from `defaults`.

    A default is dropped if it contradicts a given option or the model's family.
    """
    from qwen3_mlx.chat.plain import explicit

    usable, options = dict(defaults), explicit(given)
    if given.thinking_budget is not None:
        usable.pop("thinking", None)
    budget, most = (
        options.get(name, usable.get(name)) for name in ("thinking_budget", "max_tokens")
    )
    limit = most_tokens(read_budget(budget))
    clash = limit is not None and most is not None and most <= limit
    if (given.thinking and usable.get("thinking_budget") == 0) or (
        clash and "max_tokens" in options
    ):
        usable.pop("thinking_budget", None)
    elif clash and "thinking_budget" in options:
        usable.pop("max_tokens", None)
    never = family in NEVER_THINK
    for name, off in (("thinking", False), ("thinking_budget", 0)):
        if never or (family == "thinking" and usable.get(name) == off):
            usable.pop(name, None)
    return GenerationOptions(**(usable | options))

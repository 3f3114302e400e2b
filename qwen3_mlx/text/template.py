"""Messages to the prompt's text: the checkpoint's own chat template, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import TemplateError
from qwen3_mlx.events import ToolCall
from qwen3_mlx.options import Family
from qwen3_mlx.text.tokenizer import THINK_OPEN, read_json, token_text

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")

_PROBE: list[Message] = [{"role": "user", "content": "hi"}]
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "a probe",
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "string", "description": "x"}},
            "required": ["x"],
        },
    },
}

# Enum members, numpy's floats: scalars with methods of their own.
_SUBCLASSED: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)


class ChatTemplate:
    """A checkpoint's chat template, or its two: one may be set aside for turns with tools."""

    def __init__(
        self, source: str | Mapping[str, str], special_tokens: Mapping[str, str] | None = None
    ) -> None:
        """Compile `source`: a template, or templates by name, "default" and perhaps "tool_use".

        `special_tokens` (``eos_token`` and so on) become variables. Raises `TemplateError`.
        """
        from qwen3_mlx.text.sandbox import SandboxedTemplate  # imports jinja2: 50 ms

        sources = {"default": source} if isinstance(source, str) else source
        if "default" not in sources:
            hint = "add chat_template.jinja, or chat_template in tokenizer_config.json"
            raise TemplateError("the checkpoint has no chat template", hint=hint)
        self._default = SandboxedTemplate(sources["default"])
        tool_use = sources.get("tool_use")
        self._tool_use = self._default if tool_use is None else SandboxedTemplate(tool_use)
        self._special_tokens: dict[str, Any] = dict(special_tokens or {})

    @classmethod
    def from_dir(cls, path: str | Path) -> ChatTemplate:
        """Read the template files in `path`, else what tokenizer_config.json declares.

        Raises `TemplateError` (no template, or a damaged one), `ConfigError` (damaged JSON).
        """
        config = read_json(Path(path) / "tokenizer_config.json")
        sources = _template_files(Path(path)) or _declared(config.get("chat_template"))
        tokens = {name: token_text(config[name]) for name in config if name.endswith("_token")}
        return cls(sources, {name: text for name, text in tokens.items() if text is not None})

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for `messages`, which stay as they are.

        `tools` are JSON schemas; `thinking` is passed as ``enable_thinking`` unless it is None.
        An assistant's missing content counts as empty, and its thought may also be called
        ``reasoning`` or ``thinking``. Raises `TemplateError`.
        """
        variables = self._special_tokens | _arguments(messages, tools)
        variables["add_generation_prompt"] = add_generation_prompt
        if thinking is not None:
            variables["enable_thinking"] = thinking
        return (self._default if tools is None else self._tool_use).render(variables)

    @cached_property
    def family(self) -> Family:
        """Which kind of Qwen3 this template speaks for, found by how it behaves."""
        prompt = self.render(_PROBE)
        if prompt.rstrip().endswith(THINK_OPEN):
            return "thinking"
        if self.render(_PROBE, thinking=False) != prompt:
            return "hybrid"
        return "coder" if self._calls_in_xml() else "instruct"

    def _calls_in_xml(self) -> bool:
        try:
            return "<function=" in self.render(_PROBE, tools=[_PROBE_TOOL])
        except TemplateError:  # it knows no tools
            return False


def _template_files(path: Path) -> dict[str, str]:
    files = {file.stem: file for file in path.glob("additional_chat_templates/*.jinja")}
    if (path / "chat_template.jinja").is_file():
        files["default"] = path / "chat_template.jinja"
    try:
        return {name: file.read_text("utf-8") for name, file in files.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError("unreadable chat template", got=error) from None


def _declared(value: Any) -> dict[str, str]:
    """tokenizer_config.json's chat_template: the template itself, or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        return {_text(entry["name"]): _text(entry["template"]) for entry in value}
    except (TypeError, KeyError):
        expected = "a template, or a list of objects with name and template"
        got = repr(value)[:80]
        what = "tokenizer_config.json: chat_template"
        raise TemplateError(what, got=got, expected=expected) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _arguments(messages: object, tools: object) -> dict[str, Any]:
    """What a template is given, out of its reach to change."""
    if not isinstance(messages, list | tuple) or not messages:
        got = repr(messages)[:80]
        raise TemplateError("messages", got=got, expected="a list with at least one message")
    try:
        conversation = [_message(message) for message in messages]
        return {"messages": conversation, "tools": _plain(tools), "documents": None}
    except RecursionError:
        raise TemplateError("messages and tools", got="values nested too deeply") from None


def _message(message: object) -> dict[str, Any]:
    """A copy of `message` with the fields that templates read."""
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        expected = f"a dict whose role is one of {', '.join(ROLES)}"
        raise TemplateError("a message", got=repr(message)[:80], expected=expected)
    # Other programs write "content": null; templates know only fields that are there or not.
    fields = {name: _plain(value) for name, value in message.items() if value is not None}
    for alias in ("thinking", "reasoning"):
        if alias in fields:
            fields.setdefault("reasoning_content", fields[alias])
    if fields["role"] == "assistant":
        fields.setdefault("content", "")
    return fields


def _plain(value: object) -> Any:
    """A deep copy made of JSON's types only: a template could call the methods of any other."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind, convert in _SUBCLASSED:
        if isinstance(value, kind):
            return convert(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, ToolCall):
        return {"name": value.name, "arguments": _plain(value.arguments)}
    expected = "text, numbers, booleans, lists and dicts"
    raise TemplateError("messages and tools", got=type(value).__name__, expected=expected)

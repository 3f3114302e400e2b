"""Renders messages to a prompt with the checkpoint's own chat template, in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import TemplateError, brief
from qwen3_mlx.files import read_json, read_small
from qwen3_mlx.options import Family
from qwen3_mlx.text.end_tokens import token_text
from qwen3_mlx.text.literal import LiteralText
from qwen3_mlx.text.messages import MessageLike, normalise
from qwen3_mlx.text.tokenizer import THINK_OPEN, Tokenizer
from qwen3_mlx.text.tools import normalise_tools

_PROBE: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
_PROBE_TOOL: dict[str, Any] = {
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


class ChatTemplate:
    """A checkpoint's chat template; a checkpoint may have a second one for turns with tools."""

    def __init__(
        self, source: str | Mapping[str, str], special_tokens: Mapping[str, str] | None = None
    ) -> None:
        """Compile `source`: a template, or templates by name, "default" and optionally "tool_use".

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
        """Read the template files in `path`, else the template in tokenizer_config.json.

        Raises `TemplateError` (no template, or a damaged one), `ConfigError` (damaged JSON).
        """
        config = read_json(Path(path) / "tokenizer_config.json")
        sources = _template_files(Path(path)) or _declared(config.get("chat_template"))
        tokens = {name: token_text(config[name]) for name in config if name.endswith("_token")}
        return cls(sources, {name: text for name, text in tokens.items() if text is not None})

    @staticmethod
    def is_declared(path: str | Path) -> bool:
        """Whether `path` has a template, valid or not. Raises `ConfigError`, `TemplateError`."""
        config = read_json(Path(path) / "tokenizer_config.json")
        return bool(_template_files(Path(path)) or config.get("chat_template"))

    def render(
        self,
        messages: Sequence[MessageLike],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt's text for `messages`, which are not changed.

        `tools` are JSON schemas; `thinking` is passed as ``enable_thinking`` unless it is None.
        `normalise` defines the accepted shapes. Raises `MessageError`, `TemplateError`.
        """
        conversation = self.conversation(messages)
        return self._render(conversation, normalise_tools(tools), thinking, add_generation_prompt)

    def encode(
        self,
        messages: Sequence[MessageLike],
        tokenizer: Tokenizer,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
        special_tokens_in_text: bool = False,
    ) -> list[int]:
        """The prompt's ids; ``<|im_end|>`` in the text of a message is encoded as letters.

        With `special_tokens_in_text` it becomes the token, as in transformers: the author of a
        message can then end it and begin another. Raises as `render`, and `OptionError`.
        """
        conversation, offered = self.conversation(messages), normalise_tools(tools)
        return self.encode_conversation(
            conversation,
            tokenizer,
            offered,
            thinking,
            add_generation_prompt,
            special_tokens_in_text,
        )

    def encode_conversation(
        self,
        conversation: list[dict[str, Any]],
        tokenizer: Tokenizer,
        tools: list[dict[str, Any]] | None,
        thinking: bool | None,
        add_generation_prompt: bool,
        special_tokens_in_text: bool,
    ) -> list[int]:
        """As `encode`, for results of `conversation` and `normalise_tools`."""
        literal = LiteralText(tokenizer, conversation, tools)
        if special_tokens_in_text or not literal.anything:
            prompt = self._render(conversation, tools, thinking, add_generation_prompt)
            return tokenizer.encode(prompt)
        prompt = self._render(literal.messages, literal.tools, thinking, add_generation_prompt)
        return literal.encode(prompt)

    def conversation(self, messages: object) -> list[dict[str, Any]]:
        """`messages` normalised for this template: calls' arguments parsed if it needs dicts.

        Raises `MessageError`.
        """
        conversation = normalise(messages)
        calls = [call for m in conversation for call in m.get("tool_calls", ())]
        as_text = any(isinstance(c.get("function", c)["arguments"], str) for c in calls)
        if as_text and not self._reads_argument_text:
            return normalise(messages, parse_arguments=True)
        return conversation

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        variables = self._special_tokens | {"messages": messages, "tools": tools}
        variables |= {"documents": None, "add_generation_prompt": add_generation_prompt}
        if thinking is not None:
            variables["enable_thinking"] = thinking
        text = (self._default if tools is None else self._tool_use).render(variables)
        if not text.strip():
            hint = "the checkpoint's template is damaged: download it again"
            raise TemplateError("the chat template renders nothing", hint=hint)
        return text

    @cached_property
    def _reads_argument_text(self) -> bool:
        """Whether the template accepts a call's arguments as JSON text; the Coder's does not."""
        call = {"name": "probe", "arguments": '{"probe_key": 1}'}
        calling = {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
        try:
            return "probe_key" in self._render([*_PROBE, calling], tools=None)
        except TemplateError:
            return False

    @property
    def family(self) -> Family:
        """The model family, inferred from the prompts that the template renders.

        Raises `TemplateError` if the template can't render a message.
        """
        return self._behaviour[0]

    @property
    def thinks_by_default(self) -> bool:
        """Whether a turn thinks if neither an option nor a soft switch decides."""
        return self._behaviour[1]

    @cached_property
    def _behaviour(self) -> tuple[Family, bool]:
        """`family` and `thinks_by_default`, inferred by rendering a probe message."""
        default = self._render(_PROBE, None)
        if default.rstrip().endswith(THINK_OPEN):
            return "thinking", True
        off, on = (self._render(_PROBE, None, thinking) for thinking in (False, True))
        if off != on:
            return "hybrid", default != off
        return ("coder" if self._calls_in_xml() else "instruct"), False

    @property
    def is_plain(self) -> bool:
        """Whether the template supports neither tools nor thinking, as those of many fine-tunes.

        Such a template doesn't tell whether the model thinks.
        """
        if self.family != "instruct":
            return False
        try:
            return self._render(_PROBE, [_PROBE_TOOL]) == self._render(_PROBE, None)
        except TemplateError:
            return True

    def _calls_in_xml(self) -> bool:
        try:
            return "<function=" in self._render(_PROBE, [_PROBE_TOOL])
        except TemplateError:  # the template doesn't support tools
            return False


def _template_files(path: Path) -> dict[str, str]:
    files = {file.stem: file for file in path.glob("additional_chat_templates/[!.]*.jinja")}
    if (path / "chat_template.jinja").is_file():
        files["default"] = path / "chat_template.jinja"
    try:
        return {name: read_small(file).decode("utf-8") for name, file in files.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError("unreadable chat template", got=error) from None


def _declared(value: Any) -> dict[str, str]:
    """tokenizer_config.json's chat_template, a str or a list of named ones, as a dict by name."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        return {_text(entry["name"]): _text(entry["template"]) for entry in value}
    except (TypeError, KeyError):
        expected = "a template, or a list of objects with name and template"
        got = brief(value)
        what = "tokenizer_config.json: chat_template"
        raise TemplateError(what, got=got, expected=expected) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value

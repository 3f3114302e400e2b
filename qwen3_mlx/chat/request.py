"""Prepares a turn: renders and encodes its messages and checks its options, without computing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qwen3_mlx.chat.continuing import continued, without_end
from qwen3_mlx.chat.form import new_guide
from qwen3_mlx.chat.probing import new_schedule
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.device.fork import about_to_compute
from qwen3_mlx.engine.control import Control
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.probe_schedule import ProbeSchedule
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.errors import ContextError, OptionError, shown
from qwen3_mlx.hub.kinds import check_writes_text
from qwen3_mlx.options import DEFAULT_MAX_TOKENS, GenerationOptions, Sampling
from qwen3_mlx.options.auto_budget import AutoBudget
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from qwen3_mlx.text import Mode, StopSequences, resolve_mode
from qwen3_mlx.text.messages import MessageLike
from qwen3_mlx.text.tool_calls import Tools

LAST = "the last message is the assistant's"
"""What is said of a conversation that leaves nothing to answer."""
EMPTY_THOUGHT_END = "\n\n</think>\n\n"
"""The text that the chat templates write after ``<think>`` when thinking is off."""


@dataclass(frozen=True)
class Request:
    """A prepared turn: the prompt's ids and all decisions made before the first forward pass."""

    prompt: list[int]
    mode: Mode
    sampling: Sampling
    markers: Markers
    tools: Tools
    """The tools in the prompt."""
    budget: ThinkingBudget
    max_tokens: int
    options: GenerationOptions
    continues: bool = False
    """Whether the turn continues a message in which the prompt ends."""
    guide: Callable[[], Guide] | None = None
    """Makes the guide of a constrained answer; None if the answer is free."""
    probing: Callable[[], ProbeSchedule | None] | None = None
    """Makes the probe schedule of an automatic budget."""

    @property
    def callable(self) -> Tools:
        """The tools that may be called; without any, no output counts as a call."""
        return [] if self.options.tool_choice == "none" else self.tools

    def sequence(self, control: Control) -> TurnSequence:
        """The turn's decoding state before its first token."""
        return TurnSequence(
            self.markers,
            self.budget,
            self.max_tokens,
            control,
            inside=self.mode.starts_inside,
            closed=not self.mode.thinking or (self.continues and not self.mode.starts_inside),
            guide=None if self.guide is None else self.guide(),
            probing=None if self.probing is None else self.probing(),
        )


def prepare(
    runtime: Runtime,
    messages: Sequence[MessageLike],
    options: GenerationOptions,
    tools: list[dict[str, Any]] | None = None,
    *,
    continue_last: bool = False,
    budget_gives_way: bool = False,
) -> Request:
    """Render, encode and check a turn; with `continue_last` it extends the last message.

    tools: as `normalise_tools` returns them. A budget that leaves no room for an answer is lowered
    with `budget_gives_way`, and refused without.

    Raises `OptionError`, `MessageError`, `TemplateError`; `ContextError` if the prompt is too long.
    """
    about_to_compute()
    conversation, offered, spent, limit, mode, prompt = render(
        runtime, messages, options, tools, continue_last=continue_last
    )
    max_tokens = _max_tokens(runtime, len(prompt), options)
    budget = _budget(runtime, mode, limit, options)
    if budget_gives_way or isinstance(options.budget, AutoBudget):
        budget = budget.within(max_tokens)
    elif mode.thinking:
        budget.check(max_tokens, options.max_tokens or DEFAULT_MAX_TOKENS[runtime.family])
    _check(runtime, options, mode, spent)
    begun = str(conversation[-1]["content"]) if continue_last and not mode.starts_inside else None
    return Request(
        prompt=prompt,
        mode=mode,
        sampling=options.sampling(runtime.family, mode.thinking, runtime.generation_config),
        markers=runtime.markers([] if options.tool_choice == "none" else offered),
        tools=offered,
        budget=budget,
        max_tokens=max_tokens,
        options=options,
        continues=continue_last,
        guide=new_guide(runtime, options, offered, mode, begun),
        probing=lambda: new_schedule(runtime, options, mode, spent),
    )


class Rendered(NamedTuple):
    """A turn's prompt, and what it was made of."""

    conversation: list[dict[str, Any]]
    offered: list[dict[str, Any]]
    spent: int
    """Thinking tokens of earlier steps of this user turn."""
    limit: int | None
    """The rest of the thinking budget, in tokens."""
    mode: Mode
    prompt: list[int]


def render(
    runtime: Runtime,
    messages: Sequence[MessageLike],
    options: GenerationOptions,
    tools: list[dict[str, Any]] | None = None,
    *,
    continue_last: bool = False,
) -> Rendered:
    """The prompt of a turn, which may be longer than the context. Arguments as `prepare`.

    Raises `OptionError`, `MessageError`, `TemplateError`.
    """
    check_writes_text(runtime.kind, runtime.name)
    if isinstance(messages, list | tuple) and not messages:
        raise OptionError("messages", got="no messages", expected="at least one user message")
    conversation, offered = runtime.template.conversation(messages), tools or []
    spent = _spent(runtime, conversation, options)
    limit = _remaining(runtime, options, spent)
    mode = next_mode(runtime, conversation, options, limit)
    if continue_last:
        mode = continued(conversation, mode)
    elif conversation[-1]["role"] == "assistant":
        raise OptionError(LAST, hint="add a user message; or continue it, by continue_last=True")
    prompt = runtime.template.encode_conversation(
        conversation,
        runtime.tokenizer,
        offered or None,
        mode.template_flag,
        not continue_last,
        options.special_tokens_in_text,
    )
    if continue_last:
        prompt = without_end(runtime, prompt, mode)
    return Rendered(conversation, offered, spent, limit, mode, prompt)


def as_options(given: object) -> GenerationOptions:
    """`given`, or the defaults for None. Raises `OptionError` for anything else."""
    if isinstance(given, GenerationOptions | None):
        return given or GenerationOptions()
    hint = "give them by name: generate(prompt, thinking=False)"
    raise OptionError("options", got=shown(given)[:80], expected="GenerationOptions", hint=hint)


def runtime_of(model: object) -> Runtime:
    """The runtime of a loaded model. Raises `OptionError` for anything else, such as a name."""
    found = getattr(model, "runtime", None)
    if not isinstance(found, Runtime):
        expected, hint = "a loaded model", "load(name) gives one"
        raise OptionError("model", got=shown(model), expected=expected, hint=hint)
    return found


def next_mode(
    runtime: Runtime,
    messages: Sequence[MessageLike],
    options: GenerationOptions,
    limit: int | None = None,
) -> Mode:
    """The mode of a turn that answers `messages`; `limit` is the rest of its budget in tokens.

    An option overrides /think and /no_think in the messages, and these override the model's
    default. Raises `OptionError`.
    """
    limit = options.thinking_limit if limit is None else limit
    if limit is None and isinstance(options.budget, AutoBudget):
        limit = runtime.network.context  # an automatic budget without a cap is still a budget
    thinks = runtime.thinks_by_default
    return resolve_mode(runtime.family, messages, options.thinking, limit, thinks)


def _max_tokens(runtime: Runtime, prompt: int, options: GenerationOptions) -> int:
    """`options.max_tokens` or the family's default, at most what the context has left.

    prompt: its tokens. Raises `ContextError` if the prompt fills the context, `OptionError`.
    """
    room = runtime.network.context - prompt
    if room <= 0:
        raise ContextError(
            "the prompt is too long",
            got=f"{prompt} tokens",
            expected=f"fewer than {runtime.config.context}, the context of {runtime.name}",
            hint="shorten it, start a new conversation, or load with a larger context (--context)",
        )
    max_tokens = min(options.max_tokens or DEFAULT_MAX_TOKENS[runtime.family], room)
    if (options.min_tokens or 0) > max_tokens:
        raise OptionError(
            "min_tokens",
            got=options.min_tokens,
            expected=f"{max_tokens} at most: max_tokens, as far as the context has room",
        )
    return max_tokens


def _budget(
    runtime: Runtime, mode: Mode, limit: int | None, options: GenerationOptions
) -> ThinkingBudget:
    encode = runtime.tokenizer.encode
    if limit is None and options.thinking is False and runtime.family == "hybrid":
        limit = 0  # the model may open a thought even so
    return ThinkingBudget(limit, tuple(encode(options.stop_text)), tuple(encode(EMPTY_THOUGHT_END)))


def _check(runtime: Runtime, options: GenerationOptions, mode: Mode, spent: int) -> None:
    """Raise `OptionError` for invalid stop texts, logit biases and probes."""
    new_schedule(runtime, options, mode, spent)
    if options.stop is not None:
        StopSequences(options.stop, options.stop_in)
    bias: Mapping[int, float] = options.logit_bias or {}
    size = min(runtime.tokenizer.vocab_size, runtime.config.vocab_size)
    for token in bias:
        if token >= size:
            raise OptionError("logit_bias", got=f"token {token}", expected=f"an id below {size}")


def _spent(runtime: Runtime, messages: Sequence[MessageLike], options: GenerationOptions) -> int:
    """Thinking tokens of the earlier steps of this *user* turn; 0 without a budget."""
    spent = 0
    for message in reversed(messages if options.budget else ()):
        if message["role"] == "user" and not _is_tool_result(message):
            break
        if message["role"] == "assistant":
            spent += _thinking_tokens(runtime, message, options.stop_text)
    return spent


def _remaining(runtime: Runtime, options: GenerationOptions, spent: int) -> int | None:
    """The user turn's budget minus the `spent` tokens of its earlier steps; None: no limit."""
    limit, context = options.thinking_limit, runtime.network.context
    if not limit:
        return limit
    auto = options.budget
    if isinstance(auto, AutoBudget) and not auto.level and limit >= context:
        expected, hint = f"fewer than {context:,}, the context", "leave the cap out: auto"
        raise OptionError("the budget's cap", got=f"{limit:,} tokens", expected=expected, hint=hint)
    # 0 switches thinking off, which a model that always thinks does not support.
    return max(limit - spent, 0 if runtime.family == "hybrid" else 1)


def _is_tool_result(message: MessageLike) -> bool:
    """Whether a user message only wraps a tool's result, by the templates' own test."""
    text: str = message["content"]
    return text.startswith("<tool_response>") and text.endswith("</tool_response>")


def _thinking_tokens(runtime: Runtime, message: MessageLike, stop_text: str) -> int:
    """The number of thinking tokens that `message` took when it was generated."""
    thought = _thought(message).strip("\n")
    if not thought:
        return 0
    cut = stop_text.partition("</think>")[0].strip()
    generated = thought.removesuffix(cut).rstrip("\n") if cut else thought
    end = "\n" if generated == thought else ""
    start = "" if runtime.family == "thinking" else "<think>\n"
    return len(runtime.tokenizer.encode(f"{start}{generated}{end}"))


def _thought(message: MessageLike) -> str:
    """The thought of an assistant's message: its own field, or <think> in the content."""
    if "reasoning_content" in message:
        return str(message["reasoning_content"])
    before, closed, _ = str(message["content"]).partition("</think>")
    return before.rpartition("<think>")[2] if closed else ""

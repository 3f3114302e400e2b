"""From the options of a turn to the guide that holds its answer to a schema, pattern or call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.errors import OptionError
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text import Mode
from qwen3_mlx.text.call_grammar import CallChoice, call_grammar
from qwen3_mlx.text.grammar import Grammar, either, regex_grammar, schema_grammar
from qwen3_mlx.text.tool_calls import Tools
from qwen3_mlx.text.tools import function_of

LEAST_FORCED = 3
"""Forced tokens that are worth a forward pass of their own: it is slower than one token's."""


def answer_grammar(runtime: Runtime, options: GenerationOptions, tools: Tools) -> Grammar | None:
    """What the answer of a turn looks like, as far as `options` say; None where it is free.

    A schema leaves the model the choice to call one of `tools`. Raises `OptionError`.
    """
    text: Grammar | None = None
    if options.schema is not None:
        assert isinstance(options.schema, dict)  # the options have seen to that
        text = schema_grammar(options.schema)
    elif options.regex is not None:
        text = regex_grammar(options.regex)
    asked, choice = options.tool_choice is not None, _call_choice(options)
    if not asked and (not tools or (text is None and not _any_strict(tools))):
        return text
    if not tools:
        hint = "offer some with tools=, or leave tool_choice out"
        raise OptionError("tool_choice", got="no tools to call", hint=hint)
    beside = text if not choice.certain else None
    if beside is not None:
        choice = replace(choice, certain=True)
    calls = call_grammar(tools, runtime.tokenizer, choice, coder=runtime.family == "coder")
    return calls if beside is None else either(beside, calls)


def _call_choice(options: GenerationOptions) -> CallChoice:
    """The tools that the options want called, or allow to be."""
    choice = options.tool_choice
    if not isinstance(choice, dict):
        return CallChoice(certain=choice is not None)
    if "name" in choice:
        return CallChoice(certain=True, names=(choice["name"],), once=True)
    names = tuple(tool["name"] for tool in choice["tools"])
    return CallChoice(certain=choice["mode"] == "required", names=names)


def _any_strict(tools: Tools) -> bool:
    return any(function_of(tool).get("strict") for tool in tools)


def new_guide(
    runtime: Runtime, options: GenerationOptions, tools: Tools, mode: Mode, begun: str | None
) -> Callable[[], Guide] | None:
    """What makes a guide for one answer, or None where the answer is free.

    `begun` is what the message that goes on says already. Raises `OptionError`.
    """
    grammar = answer_grammar(runtime, options, tools)
    if grammar is None:
        return None
    tokens = runtime.tokenizer
    if mode.thinking and None in (tokens.think_open, tokens.think_close):
        hint = "leave one of the two out: thinking=False"
        raise OptionError(f"{grammar.what} with thinking needs a token </think>", hint=hint)
    match = runtime.vocabulary.match(grammar)
    for token in tokens.encode_letters(begun or ""):
        if not match.take(token):
            got = "a beginning that doesn't fit it"
            raise OptionError(f"the message can't go on to its {grammar.what}", got=got)
    thinks = mode.thinking and not mode.starts_inside and begun is None
    never = {*tokens.eos_ids, tokens.tool_open, tokens.tool_close} - {None}
    return lambda: Guide(
        match.copy(),
        runtime.config.vocab_size,
        thinking=mode.starts_inside,
        opener=tokens.think_open if thinks else None,
        lead=tuple(tokens.encode("\n\n")),
        never=frozenset(token for token in never if token is not None),
        least_forced=LEAST_FORCED if options.logprobs is None else None,
    )

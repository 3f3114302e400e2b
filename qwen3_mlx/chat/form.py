"""Constrained decoding for a turn: the guide for its schema, regex or tool choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.errors import OptionError
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text import Mode
from qwen3_mlx.text.call_grammar import CallChoice, call_grammar, no_call_grammar
from qwen3_mlx.text.grammar import Grammar, either, regex_grammar, schema_grammar
from qwen3_mlx.text.tool_calls import Tools
from qwen3_mlx.text.tools import function_of

MIN_FORCED = 3
"""Forced tokens from which one forward pass over all of them beats one pass per token."""


def answer_grammar(runtime: Runtime, options: GenerationOptions, tools: Tools) -> Grammar | None:
    """The grammar that `options` ask of the answer; None if the answer is free.

    With a schema or regex the model may still call one of `tools`. Raises `OptionError`.
    """
    text: Grammar | None = None
    if options.schema is not None:
        assert isinstance(options.schema, dict)  # GenerationOptions has checked it
        text = schema_grammar(options.schema)
    elif options.regex is not None:
        text = regex_grammar(options.regex)
    if options.tool_choice == "none":
        return no_call_grammar() if text is None and tools else text
    must_choose, choice = options.tool_choice is not None, _call_choice(options)
    if not must_choose and (not tools or (text is None and not _any_strict(tools))):
        return text
    if not tools:
        hint = "offer some in tools, or leave tool_choice out"
        raise OptionError("tool_choice", got="no tools to call", hint=hint)
    alternative = text if not choice.certain else None
    if alternative is not None:
        choice = replace(choice, certain=True)
    calls = call_grammar(tools, runtime.tokenizer, choice, coder=runtime.family == "coder")
    return calls if alternative is None else either(alternative, calls)


def _call_choice(options: GenerationOptions) -> CallChoice:
    """Which tools `options.tool_choice` allows, and whether a call is required."""
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
    """A factory of guides, one per answer, or None if the answer is free.

    begun: the text of the message that this turn continues. Raises `OptionError`.
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
        least_forced=MIN_FORCED if options.logprobs is None else None,
    )

"""A loaded model: `load` it, then `Qwen3.generate`, `Qwen3.stream` or `Qwen3.session`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.chat.draft import check_drafts, with_drafts
from qwen3_mlx.chat.given import as_messages, listed
from qwen3_mlx.chat.many import reply_to_all
from qwen3_mlx.chat.request import as_options, prepare
from qwen3_mlx.chat.runtime import LoadedModel, Runtime, load_runtime
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.chat.turn import Generation, check_interrupt, start
from qwen3_mlx.chat.turns import TurnList, raise_first
from qwen3_mlx.engine.control import Interrupt
from qwen3_mlx.engine.prefill import PromptProgress
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import OptionError, Qwen3Error, shown
from qwen3_mlx.events import Reply
from qwen3_mlx.files import path_text
from qwen3_mlx.hub.kinds import check_judges, check_writes_text
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.options.callback import callback
from qwen3_mlx.options.plain_numbers import within
from qwen3_mlx.options.plain_words import switch
from qwen3_mlx.retrieval import embed, rerank
from qwen3_mlx.retrieval.batches import Progress
from qwen3_mlx.text import normalise_tools
from qwen3_mlx.text.messages import MessageLike
from qwen3_mlx.text.tool_calls import Tools


def load(
    name: str | Path = "demo",
    *,
    context: int | None = None,
    kv_bits: int | None = None,
    kv_window: int | None = None,
    kv_sinks: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
    force: bool = False,
    adapter: str | Path | None = None,
    draft: str | Path | None = None,
) -> Qwen3:
    """Load a model by name: ``"demo"``, an alias such as ``"8b"``, a directory, or a hub repo id.

    `context` is the most tokens of a conversation; above the model's own, YaRN is switched on.
    `kv_bits` (8 or 4) quantises the KV cache; with `kv_window`, attention sees only the last so
    many tokens and the first `kv_sinks`. `on_progress` is called with bytes loaded and bytes in
    all. A model that does not fit in memory is refused before a weight is read, unless `force`;
    `Qwen3.note` says how much of the context does not fit. `adapter` is the directory of a LoRA
    adapter for this model, PEFT's or mlx-lm's. `draft` changes only the speed: ``"lookup"`` drafts
    tokens from the conversation, a smaller model of the same vocabulary (``"0.6b"``) predicts
    them, and this model verifies several at once. Raises `ModelNotFoundError`, `HubError`,
    `ConfigError`, `CheckpointError`, `ContextError`, `OptionError` or `OutOfMemoryError`.
    """
    name = path_text("name", name)
    adapter = None if adapter is None else path_text("adapter", adapter)
    draft = None if draft is None else path_text("draft", draft)
    switch("force", force)
    check_drafts(name, draft)
    callback("on_progress", on_progress)  # before a download
    runtime = load_runtime(
        name,
        context=context,
        kv_bits=kv_bits,
        kv_window=kv_window,
        kv_sinks=kv_sinks,
        on_progress=on_progress,
        force=force,
        adapter=adapter,
    )
    return Qwen3(with_drafts(runtime, draft))


class Qwen3(LoadedModel):
    """A loaded model. Turns of several threads run in one batch, each as if it ran alone."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._running: Generation | TurnList | None = None

    def __repr__(self) -> str:
        return f"Qwen3({self.name!r})"

    def generate(
        self,
        prompt: str | Sequence[MessageLike],
        options: GenerationOptions | None = None,
        *,
        n: int = 1,
        tools: Tools | None = None,
        continue_last: bool = False,
        on_progress: PromptProgress | None = None,
        **overrides: Any,
    ) -> Reply:
        """The whole reply to a prompt or a list of messages. Arguments and errors as `stream`.

        With `n` above 1, ``alternatives`` holds the n - 1 other replies, sampled one after another
        from a prompt that is prefilled once; reply i equals that of ``seed + i`` alone.
        """
        count = within(n, 1, math.inf, integer=True)
        if count is None:
            raise OptionError("n", got=shown(n), expected="a whole number, 1 or more answers")
        asked = as_options(options).override(overrides)
        cache = self.runtime.new_cache()
        replies = []
        for i in range(count):
            seed = None if asked.seed is None else (asked.seed + i) % 2**63
            one = asked.override({"seed": seed})
            turn = self._start(prompt, one, tools, continue_last, on_progress, cache)
            replies.append(Reply.from_events(turn))
            if replies[-1].finish_reason == "interrupted":
                break
        return replace(replies[0], alternatives=tuple(replies[1:]))

    def stream(
        self,
        prompt: str | Sequence[MessageLike],
        options: GenerationOptions | None = None,
        *,
        tools: Tools | None = None,
        continue_last: bool = False,
        on_progress: PromptProgress | None = None,
        **overrides: Any,
    ) -> Generation:
        """The events of the reply while it is generated: `Thinking`, `Answer`, `ToolCall`, `Done`.

        Options are given as `GenerationOptions`, as keywords (``thinking_budget=256``), or both;
        keywords override. `continue_last` continues the last message, which must be the
        assistant's. `on_progress` is called with prompt tokens done and in all. Raises
        `OptionError`, `TemplateError` or `ContextError` before anything is computed.
        """
        asked = as_options(options).override(overrides)
        return self._start(prompt, asked, tools, continue_last, on_progress, None)

    def _start(
        self,
        prompt: str | Sequence[MessageLike],
        options: GenerationOptions,
        tools: Tools | None,
        continue_last: bool,
        on_progress: PromptProgress | None,
        cache: PromptCache | None,
    ) -> Generation:
        switch("continue_last", continue_last)
        messages, offered = as_messages(prompt), normalise_tools(tools)
        request = prepare(self.runtime, messages, options, offered, continue_last=continue_last)
        self._running = turn = start(self.runtime, request, cache, on_progress)
        return turn

    @overload
    def generate_many(
        self,
        prompts: Iterable[str | Sequence[MessageLike]],
        options: GenerationOptions | None = None,
        *,
        parallel: int = 8,
        return_errors: Literal[False] = False,
        tools: Tools | None = None,
        on_progress: PromptProgress | None = None,
        **overrides: Any,
    ) -> list[Reply]: ...

    @overload
    def generate_many(
        self,
        prompts: Iterable[str | Sequence[MessageLike]],
        options: GenerationOptions | None = None,
        *,
        parallel: int = 8,
        return_errors: bool,
        tools: Tools | None = None,
        on_progress: PromptProgress | None = None,
        **overrides: Any,
    ) -> list[Reply | Qwen3Error]: ...

    def generate_many(
        self,
        prompts: Iterable[str | Sequence[MessageLike]],
        options: GenerationOptions | None = None,
        *,
        parallel: int = 8,
        return_errors: bool = False,
        tools: Tools | None = None,
        on_progress: PromptProgress | None = None,
        **overrides: Any,
    ) -> list[Reply | Qwen3Error] | list[Reply]:
        """The replies to many prompts, in their order, at most `parallel` at a time.

        Each reply is what `generate` would return for that prompt alone. `on_progress` is called
        with replies done and in all. `interrupt` stops those that run, and those that have not
        begun are empty: their ``finish_reason`` is "interrupted". A prompt that fails (invalid
        option, too long, out of memory) does not stop the others: with `return_errors` its error
        takes the reply's place; without, the first error is raised after all the others are done,
        and names its prompt.
        """
        at_once = within(parallel, 1, math.inf, integer=True)
        if at_once is None:
            raise OptionError("parallel", got=shown(parallel), expected="1 or more at a time")
        switch("return_errors", return_errors)
        asked = as_options(options).override(overrides)
        prompts, tell = listed("prompts", prompts), callback("on_progress", on_progress)
        before, self._running = self._running, (turns := TurnList())
        try:
            replies = reply_to_all(self.runtime, prompts, asked, tools, turns, int(at_once), tell)
        finally:
            if self._running is turns:  # not another list, whose turns hold their caches
                self._running = None if isinstance(before, TurnList) else before
        if not return_errors:
            raise_first("prompts", replies)
        return replies

    def embed(
        self,
        texts: Iterable[str],
        *,
        instruct: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
        on_progress: Progress | None = None,
    ) -> mx.array:
        """Qwen3-Embedding's vectors of the texts: ``[N, D]`` float32, each of length 1.

        `instruct` describes the search task of queries; leave it out for documents. `dimensions`
        keeps the first so many components. Raises `OptionError`, or `ContextError` naming a text
        that is too long; with `truncate` its beginning is embedded instead. `on_progress` is called
        with texts done and in all.
        """
        texts, truncate = listed("texts", texts), switch("truncate", truncate)
        dimensions = embed.check_dimensions(dimensions, self.config.hidden_size)
        context = self.config.context
        ids = [
            embed.token_ids(
                self.tokenizer, text, context, f"text {i}", instruct=instruct, truncate=truncate
            )
            for i, text in enumerate(texts)
        ]
        return embed.vectors(self.network, ids, dimensions, on_progress)

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        instruct: str | None = None,
        truncate: bool = False,
        on_progress: Progress | None = None,
    ) -> list[float]:
        """Qwen3-Reranker's score, 0 to 1, of how well each document answers `query`.

        Arguments and errors as `embed`.
        """
        check_judges(self.kind, self.name)
        documents, truncate = listed("documents", documents), switch("truncate", truncate)
        context = self.config.context
        ids = [
            rerank.token_ids(
                *(self.tokenizer, query, document, context, f"document {i}"),
                instruct=instruct,
                truncate=truncate,
            )
            for i, document in enumerate(documents)
        ]
        return rerank.scores(self.network, self.tokenizer, ids, on_progress)

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """End the thinking (``"answer"``) or the turn (``"stop"``) of the `stream` begun last.

        A `generate_many` counts as one: ``"answer"`` ends the thoughts that run, ``"stop"`` all.
        """
        check_interrupt(kind)
        if self._running is not None:
            self._running.interrupt(kind)

    def session(
        self,
        system: str | None = None,
        options: GenerationOptions | None = None,
        *,
        tools: Tools | None = None,
        **overrides: Any,
    ) -> ChatSession:
        """A conversation with this model; options and `tools`, as in `stream`, for each turn."""
        check_writes_text(self.kind, self.name)
        asked = as_options(options).override(overrides)
        return ChatSession(self.runtime, system, asked, tools)

"""A conversation: the messages are the truth, the cache only saves work."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import ref

from qwen3_mlx.chat import journal
from qwen3_mlx.chat.assistant_message import AssistantMessage
from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.chat.request import prepare
from qwen3_mlx.chat.runtime import LoadedModel, Runtime, load_runtime
from qwen3_mlx.chat.turn import Generation, turn_events
from qwen3_mlx.engine.background import BACKGROUND, Stopped
from qwen3_mlx.engine.control import Control, Interrupt
from qwen3_mlx.engine.prefill import PromptProgress
from qwen3_mlx.engine.warm import warm
from qwen3_mlx.errors import MessageError, OptionError, shown
from qwen3_mlx.events import Done, Event, Stats
from qwen3_mlx.files import check_path
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text import normalise_tools, stable_prefix
from qwen3_mlx.text.messages import MessageLike
from qwen3_mlx.text.tool_calls import Tools


class ChatSession:
    """A conversation with one model.

    ``messages`` is a plain list that may be edited between turns: every turn renders all of
    it, and recomputes from the first token that changed.
    """

    def __init__(
        self,
        runtime: Runtime,
        system: str | None = None,
        options: GenerationOptions | None = None,
        tools: Tools | None = None,
    ) -> None:
        self.runtime = runtime
        self.tools = normalise_tools(tools)
        """Functions on offer in every turn that doesn't bring its own."""
        self._offered = self.tools
        self.options = options or GenerationOptions()
        self.messages: list[dict[str, Any]] = []
        self.last_stats: Stats | None = None
        self.cache = runtime.new_cache()
        self._running: Generation | None = None
        self._to_save: tuple[PromptStore, list[int]] | None = None
        self.system = system

    @property
    def system(self) -> str | None:
        """The system prompt: the first message, if its role is system."""
        if self.messages and self.messages[0]["role"] == "system":
            return str(self.messages[0]["content"])
        return None

    @system.setter
    def system(self, text: str | None) -> None:
        if self.system is not None:
            del self.messages[0]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def send(
        self,
        content: str | MessageLike | Sequence[MessageLike],
        *,
        tools: Tools | None = None,
        on_progress: PromptProgress | None = None,
        **overrides: Any,
    ) -> Generation:
        """Add a user message (or messages, such as tool results) and stream the reply.

        `overrides` are options for this turn, and so are `tools`; None offers the session's. The
        reply joins ``messages`` when the turn ends, is interrupted, or fails half way. Raises as
        `Qwen3.stream`; then ``messages`` is as before.
        """
        self._end_turn()
        messages = [*self.messages, *_as_messages(content)]
        return self._turn(messages, on_progress, overrides, tools)

    def continue_last(
        self, *, on_progress: PromptProgress | None = None, **overrides: Any
    ) -> Generation:
        """Go on with the assistant's last message, which grows. Raises as `send`."""
        self._end_turn()
        return self._turn([*self.messages], on_progress, overrides, grows=True)

    def retry(
        self,
        *,
        tools: Tools | None = None,
        on_progress: PromptProgress | None = None,
        **overrides: Any,
    ) -> Generation:
        """Answer the last user message anew. Raises `OptionError` if there is none."""
        self._end_turn()
        last = next(
            (i for i, m in reversed([*enumerate(self.messages)]) if m["role"] == "user"), -1
        )
        if last < 0:
            raise OptionError("nothing to retry", hint="send a message first")
        return self._turn(self.messages[: last + 1], on_progress, overrides, tools)

    def _end_turn(self) -> None:
        """Nothing may compute into the cache any more: no turn left open, nor the background."""
        BACKGROUND.give_up()
        if self._running is not None:
            try:
                self._running.close()
            except ValueError:  # another thread is inside it
                hint = "interrupt() it first, and take its events to the end"
                raise OptionError("a turn is still running", hint=hint) from None

    def _turn(
        self,
        messages: list[dict[str, Any]],
        on_progress: PromptProgress | None,
        overrides: dict[str, Any],
        tools: Tools | None = None,
        grows: bool = False,
    ) -> Generation:
        offered = self.tools if tools is None else normalise_tools(tools)
        options = self.options.override(overrides)
        request = prepare(self.runtime, messages, options, offered, continue_last=grows)
        self.messages, self._offered = messages, offered
        control = Control()
        events = turn_events(self.runtime, request, self.cache, control, on_progress)
        self._running = Generation(_record(ref(self), events, grows), control)
        return self._running

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """End the thinking (``"answer"``) or the turn (``"stop"``), from any thread."""
        if self._running is not None:
            self._running.interrupt(kind)

    def warm(self) -> int:
        """Compute now what the next prompt will begin with; returns how many tokens that took.

        The next turn then pays for its own message only, although the history it is rendered
        with differs from what was generated: its thoughts are gone. Does nothing in a turn.
        """
        BACKGROUND.stop()
        return self._warm(self.messages, lambda: False)

    def warm_in_background(self) -> None:
        """Begin `warm` and return at once. The next turn, of any session, makes it give up."""
        messages = [dict(message) for message in self.messages]

        def job(stopped: Stopped) -> None:
            self._warm(messages, stopped)
            if self.runtime.drafts is not None:
                self.runtime.drafts.compile_ahead(stopped)

        BACKGROUND.run(job)

    def _warm(self, messages: list[dict[str, Any]], stopped: Stopped) -> int:
        if not self.cache.lock.acquire(blocking=False):
            return 0
        try:
            known = self._lasting(messages)
            computed = warm(self.runtime.network, known, self.cache, stopped)
            self._save_prompt(stopped)
            return computed
        finally:
            self.cache.lock.release()

    def restore_prompt(self, store: PromptStore) -> str:
        """Take what `store` has of the next prompt's beginning, and have `warm` keep the rest.

        For a beginning that will be met again: a long system prompt, a conversation gone on with.
        Returns a note if something was there that is of no use, else nothing.
        """
        if self.runtime.network.model.lead is not None:
            return ""  # what is on this disk is one machine's part
        known = self._lasting(self.messages)
        BACKGROUND.stop()
        with self.cache.lock:
            note = store.restore(self.runtime, known, self.cache)
            if len(self.cache.tokens) < len(known):
                self._to_save = (store, known)
        return note

    def save_prompt(self) -> None:
        """Have what `restore_prompt` asked for on the disk now, if it is computed."""
        BACKGROUND.stop()
        self._save_prompt(lambda: False)

    def _save_prompt(self, stopped: Stopped) -> None:
        if self._to_save is None:
            return
        store, known = self._to_save
        if self.cache.tokens[: len(known)] != known:
            return
        if store.save(self.runtime, known, self.cache, stopped):
            self._to_save = None

    def _lasting(self, messages: list[dict[str, Any]]) -> list[int]:
        runtime = self.runtime
        known = stable_prefix(
            runtime.template,
            runtime.tokenizer,
            messages,
            self._offered or None,
            special_tokens_in_text=self.options.special_tokens_in_text,
        )
        return known[: runtime.config.context]

    def clear(self) -> None:
        """Forget the conversation; the system prompt stays."""
        self.messages = self.messages[: 1 if self.system is not None else 0]
        self.last_stats = None

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file, all or nothing.

        Raises `SessionError`, or `OptionError` for what is no path.
        """
        check_path("path", path)
        journal.save(Path(path), self.runtime.name, self.options, self.messages)

    @classmethod
    def load(cls, path: str | Path, model: LoadedModel | None = None) -> ChatSession:
        """Read a saved conversation, and load its model unless one is given.

        A damaged file is read up to its first damage. Raises `SessionError`, `OptionError`
        for what is no path, or what `qwen3_mlx.load` raises.
        """
        check_path("path", path)
        saved = journal.read(Path(path))
        runtime = model.runtime if model else load_runtime(saved.model)
        session = cls(runtime, options=GenerationOptions(**saved.options))
        session.messages = saved.messages
        return session


def _record(session: ref[ChatSession], events: Generator[Event], grows: bool) -> Generator[Event]:
    """Pass the events on, and keep what was said even if the turn ends early.

    It doesn't hold the session, which holds it: a turn that is dropped gives its memory back at
    once, not when the collector comes round.
    """
    owner = session()
    assert owner is not None  # it is about to begin the turn
    said = AssistantMessage(owner.messages, grows)
    del owner
    return _recorded(session, events, said)


def _recorded(
    session: ref[ChatSession], events: Generator[Event], said: AssistantMessage
) -> Generator[Event]:
    try:
        for event in events:
            if isinstance(event, Done):
                if (owner := session()) is not None:
                    owner.last_stats = event.stats
                    del owner
                said.keep()
            else:
                said.take(event)
            yield event
    finally:
        events.close()
        if said.anything:
            said.keep()


def _as_messages(content: str | MessageLike | Sequence[MessageLike]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        if not content.strip():
            raise OptionError("the message is empty", hint="say something")
        return [{"role": "user", "content": content}]
    given = [content] if isinstance(content, Mapping) else content
    if not isinstance(given, Sequence) or not all(isinstance(one, Mapping) for one in given):
        expected = "a text, a message, or a list of messages (dicts with role and content)"
        raise MessageError("the message", got=shown(content), expected=expected)
    return [dict(message) for message in given]

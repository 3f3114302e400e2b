"""A conversation. Its state is the list of messages; the KV cache only saves work."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from weakref import ref

from qwen3_mlx.chat import journal
from qwen3_mlx.chat.assistant_message import AssistantMessage
from qwen3_mlx.chat.given import new_messages
from qwen3_mlx.chat.plain import checked_messages
from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.chat.request import as_options, prepare, runtime_of
from qwen3_mlx.chat.runtime import LoadedModel, Runtime, load_runtime
from qwen3_mlx.chat.turn import Generation, check_interrupt, turn_events
from qwen3_mlx.device.fork import about_to_compute
from qwen3_mlx.engine.background import BACKGROUND, Stopped
from qwen3_mlx.engine.control import Control, Interrupt
from qwen3_mlx.engine.prefill import PromptProgress
from qwen3_mlx.engine.warm import warm
from qwen3_mlx.errors import BackendError, OptionError, shown
from qwen3_mlx.events import Done, Event, Stats
from qwen3_mlx.files import path_text
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text import normalise_tools
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
        self.tools: Tools | None = normalise_tools(tools)
        """Tools on offer in every turn that doesn't pass its own."""
        self._offered = normalise_tools(tools)
        self.options = options
        self.messages: list[dict[str, Any]] = []
        self.last_stats: Stats | None = None
        self.cache = runtime.new_cache()
        self._running: Generation | None = None
        self._to_save: tuple[PromptStore, list[int]] | None = None
        self.system = system

    def __repr__(self) -> str:
        return f"ChatSession({self.runtime.name!r}, {len(self.messages)} messages)"

    def __reduce__(self) -> NoReturn:
        """Refuse copies, which would compute in one cache, and pickling. Raises `BackendError`."""
        hint = "save() it; ChatSession.load(path, model) is another one that goes on from there"
        raise BackendError("a session can't be copied or pickled", hint=hint)

    @property
    def options(self) -> GenerationOptions:
        """The options of every turn; None sets the defaults."""
        return self._options

    @options.setter
    def options(self, options: GenerationOptions | None) -> None:
        self._options = as_options(options)

    @property
    def system(self) -> str | None:
        """The system prompt: the first message, if its role is system."""
        first = checked_messages(self.messages)[:1]
        return str(first[0].get("content")) if first and first[0]["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        if not isinstance(text, str | None):
            raise OptionError("system", got=shown(text)[:80], expected="a text, or None")
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

        `overrides` and `tools` apply to this turn only; tools=None offers the session's tools. The
        reply is added to ``messages`` when the turn ends, is interrupted, or fails midway. Raises
        as `Qwen3.stream`, which leaves ``messages`` unchanged.
        """
        self._end_turn()
        messages = [*self.messages, *new_messages(content)]
        return self._turn(messages, on_progress, overrides, tools)

    def continue_last(
        self, *, on_progress: PromptProgress | None = None, **overrides: Any
    ) -> Generation:
        """Continue the assistant's last message in place. Raises as `send`."""
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
        """Stop all computation in the cache: the background task and an unfinished turn.

        Raises `OptionError` if another thread is inside the turn.
        """
        BACKGROUND.give_up()
        checked_messages(self.messages)
        if self._running is not None:
            try:
                self._running.close()
            except ValueError:  # another thread is running the generator
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
        offered = normalise_tools(self.tools if tools is None else tools)
        options = self.options.override(overrides)
        request = prepare(self.runtime, messages, options, offered, continue_last=grows)
        self.messages, self._offered = messages, offered
        control = Control()
        events = turn_events(self.runtime, request, self.cache, control, on_progress)
        self._running = Generation(_record_turn(ref(self), events, grows), control)
        return self._running

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """End the thinking (``"answer"``) or the turn (``"stop"``), from any thread."""
        check_interrupt(kind)
        if self._running is not None:
            self._running.interrupt(kind)

    def warm(self) -> int:
        """Prefill the known prefix of the next prompt; returns the number of computed tokens.

        The next turn then computes only its own message, although the rendered history differs
        from the generated tokens (templates drop old thoughts). Does nothing during a turn.
        """
        about_to_compute()
        BACKGROUND.stop()
        return self._warm(self.messages, lambda: False)

    def warm_in_background(self) -> None:
        """Start `warm` in the background. The next turn of any session cancels it."""
        about_to_compute()  # here: who has forked would hear nothing of an error in the background
        messages = [dict(message) for message in checked_messages(self.messages)]

        def job(stopped: Stopped) -> None:
            self._warm(messages, stopped)
            if self.runtime.drafts is not None:
                self.runtime.drafts.compile_ahead(stopped)

        BACKGROUND.run(job)

    def _warm(self, messages: list[dict[str, Any]], stopped: Stopped) -> int:
        if not self.cache.lock.acquire(blocking=False):
            return 0
        try:
            known = self._stable_prefix(messages)
            computed = warm(self.runtime.network, known, self.cache, stopped)
            self._save_prompt(stopped)
            return computed
        finally:
            self.cache.lock.release()

    def restore_prompt(self, store: PromptStore) -> str:
        """Load the next prompt's prefix from `store`; `warm` will store what is missing.

        For prefixes that recur: a long system prompt, a resumed conversation. Returns a note for
        the user if a stored file could not be used, else "".
        """
        if self.runtime.network.model.lead is not None:
            return ""  # this machine's disk would hold only its share of the cache
        known = self._stable_prefix(self.messages)
        BACKGROUND.stop()
        with self.cache.lock:
            note = store.restore(self.runtime, known, self.cache)
            if len(self.cache.tokens) < len(known):
                self._to_save = (store, known)
        return note

    def save_prompt(self) -> None:
        """Store the prefix that `restore_prompt` found missing, if it is computed by now."""
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

    def _stable_prefix(self, messages: list[dict[str, Any]]) -> list[int]:
        messages, special = checked_messages(messages), self.options.special_tokens_in_text
        return self.runtime.stable_prefix(messages, self._offered, special)

    def clear(self) -> None:
        """Remove all messages but the system prompt."""
        self.messages = self.messages[: 1 if self.system is not None else 0]
        self.last_stats = None

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file atomically. Raises `SessionError`, `OptionError`."""
        messages = checked_messages(self.messages)
        journal.save(Path(path_text("path", path)), self.runtime.name, self.options, messages)

    @classmethod
    def load(cls, path: str | Path, model: LoadedModel | None = None) -> ChatSession:
        """Read a saved conversation, and load its model unless one is given.

        Tools aren't saved: set ``tools`` again. A damaged file is read up to its first damage.
        Raises `SessionError`, `OptionError` if `path` or `model` is none, or as `qwen3_mlx.load`.
        """
        path = path_text("path", path)
        given = None if model is None else runtime_of(model)
        saved = journal.read(Path(path))
        session = cls(given or load_runtime(saved.model), None, GenerationOptions(**saved.options))
        session.messages = saved.messages
        return session


def _record_turn(
    session: ref[ChatSession], events: Generator[Event], grows: bool
) -> Generator[Event]:
    """Pass the events on, and add the reply to the messages even if the turn ends early.

    The session is a weak reference: without a reference cycle, an abandoned turn frees its memory
    at once rather than at the next garbage collection.
    """
    owner = session()
    assert owner is not None  # the caller is a method of the session
    reply = AssistantMessage(owner.messages, grows)
    del owner
    return _recorded(session, events, reply)


def _recorded(
    session: ref[ChatSession], events: Generator[Event], reply: AssistantMessage
) -> Generator[Event]:
    try:
        for event in events:
            if isinstance(event, Done):
                if (owner := session()) is not None:
                    owner.last_stats = event.stats
                    del owner
                reply.commit()
            else:
                reply.add(event)
            yield event
    finally:
        events.close()
        if reply.has_content:
            reply.commit()

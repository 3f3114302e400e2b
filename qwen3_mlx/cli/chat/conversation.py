"""The state of a chat that both interfaces share: session, mode, totals and files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.cli.settings import folders
from qwen3_mlx.errors import OptionError, Qwen3Error, SessionError
from qwen3_mlx.events import Done, Stats
from qwen3_mlx.options import NEVER_THINK
from qwen3_mlx.options.auto_budget import AutoBudget

if TYPE_CHECKING:
    from qwen3_mlx.chat.journal import ChatJournal, SavedChat
    from qwen3_mlx.chat.session import ChatSession
    from qwen3_mlx.chat.turn import Generation
    from qwen3_mlx.cli.tools.chat_tools import ChatTools
    from qwen3_mlx.cli.tools.turn import ToolTurn
    from qwen3_mlx.model import Qwen3

BUDGETS = tuple(64 * 2**n for n in range(10))
"""The steps of a thinking budget, in tokens: 64 to 32,768."""


@dataclass
class Conversation:
    """One chat with one model."""

    model: Qwen3
    session: ChatSession
    files: set[Path] = field(default_factory=set)
    """Files this chat has written or read, which it may overwrite."""
    turns: int = 0
    used: int = 0
    """Tokens of the context that the next turn begins with; see `recount`."""
    total: Stats = field(default_factory=Stats)
    journal: ChatJournal | None = None
    """The file that records the chat; None if it isn't recorded."""
    tools: ChatTools | None = None
    """The tool servers, if there are any."""
    _keeping: threading.Lock = field(default_factory=threading.Lock)
    """Held while the journal is used: a lost terminal's thread keeps the chat, and ends it."""
    _save_failed: bool = False
    saved_by_user: list[dict[str, Any]] = field(default_factory=list)
    """The messages that the user has written to a file of their own choice."""
    _sending: str = ""
    """The message of the running turn: the session adds it to its messages a moment later."""

    @property
    def name(self) -> str:
        """The model's name, short enough for a prompt."""
        return Path(self.model.name).name

    @property
    def budget(self) -> int | None:
        """The most thinking tokens per turn; None: no limit."""
        return self.session.options.thinking_limit

    @property
    def automatic(self) -> bool:
        """Whether probes may end a thought."""
        return isinstance(self.session.options.budget, AutoBudget)

    @property
    def budget_name(self) -> str:
        """``no limit``, ``256``, ``auto`` or ``auto:2,048``."""
        budget = self.session.options.budget
        return (
            "no limit" if budget is None else f"{budget:,}" if type(budget) is int else f"{budget}"
        )

    @property
    def thinks(self) -> bool:
        """Whether the running turn, or else the next one, thinks.

        Options override the soft switches in the messages, which override the model's default.
        """
        options = self.session.options
        if self.model.family != "hybrid":
            return self.model.family not in NEVER_THINK
        if options.thinking is False or options.thinking_budget == 0:
            return False
        flags = map(_flag, [self._sending, *reversed(self._user_texts())])
        flag = next((found for found in flags if found is not None), None)
        return options.thinking or (self.model.template.thinks_by_default if flag is None else flag)

    def _user_texts(self) -> list[str]:
        """The texts that may hold a soft switch, oldest first."""
        from qwen3_mlx.text.messages import joined_text

        roles = ("system", "developer", "user")
        messages = [m for m in self.session.messages if m["role"] in roles]
        return [joined_text(message.get("content")) for message in messages]

    def sending(self, text: str) -> str:
        """Prepare to send `text`; returns it with undecodable bytes replaced.

        A soft switch in the text is newer than the thinking option, so it resets that option.
        """
        clean = text.encode("utf-8", "replace").decode()  # a paste may hold lone surrogates
        if self.model.family == "hybrid" and _flag(clean) is not None:
            self.set_options(thinking=None, thinking_budget=self.session.options.budget or None)
        self._sending = clean
        return clean

    def begin(
        self, text: str | None, on_progress: Callable[[int, int], None]
    ) -> Generation | ToolTurn:
        """Begin a turn: send `text` as `sending` returned it, or (None) retry the last message.

        Raises as `ChatSession.send`; with tools these errors come while the turn is iterated.
        """
        if self.tools is not None and self.tools.offered():
            from qwen3_mlx.cli.tools.turn import ToolTurn

            return ToolTurn(self.session, self.tools, text, on_progress=on_progress)
        if text is None:
            return self.session.retry(on_progress=on_progress)
        return self.session.send(text, on_progress=on_progress)

    @property
    def mode(self) -> str:
        """``thinking``, ``thinking, budget 256`` or ``not thinking``."""
        if not self.thinks:
            return "not thinking"
        limited = self.session.options.budget
        return f"thinking, budget {self.budget_name}" if limited else "thinking"

    def set_options(self, **changes: Any) -> None:
        """Change options of later turns. Raises `OptionError`, which changes none."""
        self.session.options = replace(self.session.options, **changes)

    def switch(self, thinking: bool) -> None:
        """Turn thinking on or off. Raises `OptionError` if the model can't switch."""
        family = self.model.family
        if family in NEVER_THINK:
            hint = "for a model that does, start: qwen3-mlx chat 4b"
            raise OptionError(f"{self.name} never thinks, so there is nothing to switch", hint=hint)
        if family == "thinking" and not thinking:
            hint = "make it brief instead: /budget 512"
            raise OptionError(f"{self.name} always thinks: it can't be switched off", hint=hint)
        budget = self.session.options.budget
        budget = None if thinking and budget == 0 else budget
        self.set_options(thinking=thinking, thinking_budget=budget)

    def take_up(self) -> str:
        """Restore the prompt cache that an earlier chat stored for these messages.

        Returns a note for the user if a stored cache could not be used, else "".
        """
        from qwen3_mlx.chat.prompt_store import PromptStore  # brings MLX

        note = ""
        if self.journal is not None:  # a chat that isn't recorded stores no prompt either
            note = self.session.restore_prompt(PromptStore(folders.prompts()))
        self.session.warm_in_background()
        return note

    def keep(self, *, again: bool = False) -> None:
        """Write the changes to the journal; called after every turn and command.

        Raises `SessionError`; of several failures in a row only the first, unless `again` is set.
        """
        self._sending = ""
        self._write(again)

    def unkept(self) -> str:
        """Why the conversation isn't on the disk, tried anew; "" if it is, or isn't recorded."""
        try:
            if self._save_failed and self.session.messages != self.saved_by_user:
                self._write(again=True)
        except SessionError as error:
            return str(error)
        return ""

    def _write(self, again: bool) -> None:
        if self.journal is None:
            return
        session = self.session
        try:
            with self._keeping:
                self.journal.keep(
                    folders.lasting_name(self.model.name), session.options, session.messages
                )
            self._save_failed = False
        except SessionError:
            if again or not self._save_failed:
                self._save_failed = True
                raise

    def as_saved(self) -> SavedChat:
        """The conversation as its file holds it; without an id if it isn't recorded."""
        from qwen3_mlx.chat.journal import SavedChat
        from qwen3_mlx.chat.plain import explicit

        options = explicit(self.session.options)
        path = self.journal.path if self.journal is not None else Path()
        return SavedChat(path, self.model.name, options, self.session.messages)

    def close(self) -> None:
        """Store the computed prompt, close the journal and stop the tool servers."""
        if self.tools is not None:
            self.tools.close()
        self.session.save_prompt()
        if self.journal is not None:
            with self._keeping:
                self.journal.close()

    @property
    def context(self) -> int | None:
        """The model's context length in tokens."""
        config = getattr(self.model, "config", None)
        return int(config.context) if config is not None else None

    def prompt_tokens(self, messages: Sequence[dict[str, Any]] | None = None) -> int:
        """Tokens of the conversation (or of `messages`) as the next prompt begins with them.

        They are rendered with a message behind them, without which the template would keep the
        last thought. Takes time in a long conversation.
        """
        from qwen3_mlx.text.stable_prefix import stable_prefix

        messages = self.session.messages if messages is None else messages
        if not messages:
            return 0
        offered = [tool.as_offer() for tool in self.tools.known()] if self.tools else []
        special = self.session.options.special_tokens_in_text
        text = (self.model.template, self.model.tokenizer, messages, offered or None, special)
        return len(stable_prefix(*text))

    def recount(self, messages: Sequence[dict[str, Any]] | None = None) -> None:
        """Update `used` from the messages, because something other than a turn changed them."""
        try:
            self.used = self.prompt_tokens(messages)
        except Qwen3Error:  # the next turn will say it
            self.used = 0

    def step_budget(self, up: bool) -> None:
        """Double or halve the budget; above the largest step there is no limit.

        Raises `OptionError` for a model that never thinks.
        """
        if not self.thinks:
            self.switch(True)
        room = (self.context or 2 * BUDGETS[-1]) // 2
        steps = [budget for budget in BUDGETS if budget <= room] or list(BUDGETS[:1])
        if up:
            more = [budget for budget in steps if self.budget is not None and budget > self.budget]
            self.set_options(thinking_budget=more[0] if more else None)
        else:
            now = self.budget or 2 * steps[-1]
            less = [budget for budget in steps if budget < now]
            self.set_options(thinking_budget=less[-1] if less else steps[0])

    def adopt(self, model: Qwen3) -> None:
        """Continue with another model: the same messages, and the options it supports."""
        options, messages = self.session.options, self.session.messages
        if (model.family == "thinking" and not self.thinks) or model.family in NEVER_THINK:
            options = replace(options, thinking=None, thinking_budget=None)
        session = model.session(options=options)
        session.messages = messages
        self.model, self.session = model, session

    def count(self, done: Done) -> None:
        """Add a finished turn to the totals, and take `used` from its counts."""
        new, total = done.stats, self.total
        self.turns += 1
        last = self.session.last_stats or new  # of several steps with tools, the last
        self.used = last.prompt_tokens + last.answer_tokens
        self.total = replace(
            total,
            prompt_tokens=total.prompt_tokens + new.prompt_tokens,
            cached_tokens=total.cached_tokens + new.cached_tokens,
            thinking_tokens=total.thinking_tokens + new.thinking_tokens,
            answer_tokens=total.answer_tokens + new.answer_tokens,
            peak_memory_bytes=max(total.peak_memory_bytes, new.peak_memory_bytes),
        )


@lru_cache(512)  # the status line calls it five times a second
def _flag(text: str) -> bool | None:
    """The soft switch in `text`."""
    from qwen3_mlx.text import soft_switch

    return soft_switch([{"role": "user", "content": text}])

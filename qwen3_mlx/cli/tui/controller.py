"""What the chat does with a message, a command, a model that is loaded, and a turn that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen3_mlx.cli.chat import slash_commands
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.chat.result import CommandResult
from qwen3_mlx.cli.tui.status import bar
from qwen3_mlx.cli.tui.turn_view import TurnView

if TYPE_CHECKING:
    from qwen3_mlx.cli.tui.app import Chat
    from qwen3_mlx.model import Qwen3

NEARLY_FULL = 0.8
"""The share of the context from which the person is told."""


NO_MODEL = "no model: choose another with /model NAME, or leave with /quit"

AT_ONCE = ("/help", "/quit")
"""Commands that are done even while the model loads or a turn runs."""


def take(app: Chat, text: str) -> None:
    """Do what the person asks for by sending `text`, as soon as that is possible."""
    name = text.split()[0]
    first = name in AT_ONCE or (name == "/model" and app.chat is None and not app.busy)
    if first and slash_commands.is_command(text):
        _command(app, text)
    else:
        app.waiting.add(text)
        go_on(app)
        if app.chat is None and not app.busy:
            app.log_view.note(NO_MODEL)


def go_on(app: Chat) -> None:
    """Do what waits, one by one, until something takes time or fails."""
    while app.waiting and app.ready:
        text = app.waiting.next()
        try:
            if slash_commands.is_command(text):
                _command(app, text)
            else:
                send(app, text)
        except Exception as error:  # a bug must not cost the conversation
            app.fail(error)
            take_back(app)


def take_back(app: Chat) -> None:
    """Put what waits into the input, above what stands there."""
    if app.waiting:
        app.input.put_above(app.waiting.take_back())


def send(app: Chat, text: str) -> None:
    """Send a message."""
    assert app.chat is not None
    session = app.chat.session
    # pasted bytes that are no text would fail in the tokenizer
    clean = text.encode("utf-8", "replace").decode()
    app.begin(lambda progress: session.send(clean, on_progress=progress), clean)


def _command(app: Chat, line: str) -> None:
    name = line.split()[0]
    if name == "/quit":
        app.exit(0)
    elif name == "/help":
        app.log_view.note(help_text())
    elif app.chat is None:
        load(app, line.partition(" ")[2].strip())
    else:
        _do(app, app.chat, slash_commands.run(app.chat, line))
        app.attempt(Conversation.keep)
    app.log_view.follow()


def _do(app: Chat, chat: Conversation, outcome: CommandResult) -> None:
    if outcome.changed:
        app.log_view.show(chat.session.messages, folded=app.start.show_thinking != "always")
    if outcome.text:
        app.log_view.note(outcome.text)
    if outcome.edit is not None:
        app.input.put_above(outcome.edit)
    if outcome.model is not None:
        load(app, outcome.model)
    if outcome.send is not None:
        send(app, outcome.send)
    if outcome.retry:
        _retry(app, chat)
    if outcome.quit:
        app.exit(0)


def _retry(app: Chat, chat: Conversation) -> None:
    messages = chat.session.messages
    last = max((n for n, m in enumerate(messages) if m["role"] == "user"), default=-1)
    if last >= 0:
        app.log_view.show(messages[: last + 1], folded=app.start.show_thinking != "always")
    app.begin(lambda progress: chat.session.retry(on_progress=progress))


def help_text() -> str:
    """The commands and the keys."""
    width = max(len(command.usage) for command in slash_commands.COMMANDS.values())
    lines = [f"/{c.usage:<{width}}  {c.help}" for c in slash_commands.COMMANDS.values()]
    return "\n".join([*lines, "", *KEYS])


def load(app: Chat, name: str) -> None:
    """Load a model in the worker's thread; the one there is stays until the new one is there."""
    try:
        if app.start.find(name) is None:
            with app.suspend():
                app.start.fetch(name)
    except (Exception, KeyboardInterrupt) as error:
        _not_loaded(app, error)
        return
    app.busy = f"loading {name}"
    app.show_status()

    def progress(done: int, total: int) -> None:
        app.call_later(_progress, app, name, done, total)

    def job() -> None:
        try:
            model = app.start.load(name, progress)
        except Exception as error:
            app.call_later(_not_loaded, app, error)
        else:
            app.call_later(_loaded, app, name, model)

    app.worker.submit(job)


def _progress(app: Chat, name: str, done: int, total: int) -> None:
    if app.busy:
        app.busy = f"loading {name} {bar(done, total)} {100 * done // max(total, 1)} %"
        app.show_status()


def _not_loaded(app: Chat, error: BaseException) -> None:
    app.busy = ""
    app.fail(error)
    take_back(app)
    if app.chat is None:
        app.log_view.note(NO_MODEL)
    app.show_status()


def _loaded(app: Chat, name: str, model: Qwen3) -> None:
    app.busy, app.model_name = "", name
    app.start.remember(name)
    if app.chat is None:
        session = model.session(app.start.system, app.start.options)
        app.chat = Conversation(model, session)
        notes = app.start.prepare(app.chat)
        if len(session.messages) > 1:
            app.log_view.show(session.messages, folded=app.start.show_thinking != "always")
        for note in notes:
            app.log_view.note(note)
    else:
        app.chat.adopt(model)
        app.log_view.note(f"from now on: {app.chat.name}, {app.chat.mode}")
    go_on(app)
    app.show_status()


def finish(app: Chat, view: TurnView) -> None:
    """A turn has ended: count it, say so before the context is full, and do what waits.

    After a turn that failed or was stopped nothing goes on by itself: it comes back to the input.
    """
    app.view = None
    assert app.chat is not None
    if view.done is not None:
        app.chat.count(view.done)
        _warn(app, app.chat)
    app.attempt(Conversation.keep)
    if view.done is None or view.done.finish_reason == "interrupted":
        take_back(app)
    if view.error is not None:
        app.errors.append(view.error)
    if view.error is not None and not view.began:
        app.input.put_above(view.sent)  # it was refused: to be changed and sent again
    go_on(app)
    if view.done is not None and app.ready:
        app.chat.session.warm_in_background()  # while the answer is read


def _warn(app: Chat, chat: Conversation) -> None:
    last, context = chat.session.last_stats, chat.context
    if last is None or context is None:
        return
    used = last.prompt_tokens + last.answer_tokens
    if used >= NEARLY_FULL * context:
        app.log_view.note(
            f"the context is {100 * used // context} % full, {max(context - used, 0):,} tokens are"
            " left: /drop forgets the oldest turn, /clear all of them"
        )


KEYS = (
    "Enter          send                   Alt-Enter, Ctrl-J  new line",
    "Esc, Ctrl-C    answer now; stop; leave",
    "Ctrl-T         think or not           Alt-Up, Alt-Down   budget",
    "Ctrl-O         copy marked or answer  Ctrl-R             fold or open thoughts",
    "Up, Down       history                PageUp, PageDown   scroll",
    "Tab            complete a command     Ctrl-D             leave",
)

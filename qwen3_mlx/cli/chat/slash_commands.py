"""The slash commands. They act on a `Conversation` and return a `CommandResult`.

They draw nothing: both chat interfaces run them.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from qwen3_mlx.chat import journal, journal_files
from qwen3_mlx.cli.chat import editing, resume
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.chat.keys import key_help
from qwen3_mlx.cli.chat.result import Command, CommandResult
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.cli.terminal.render import counted, drafts
from qwen3_mlx.cli.tools import commands as tools
from qwen3_mlx.errors import OptionError, SessionError, gb, shown
from qwen3_mlx.files import expanded, resolved
from qwen3_mlx.options import NEVER_THINK
from qwen3_mlx.options.auto_budget import AutoBudget, read_budget


def is_command(line: str) -> bool:
    """Whether `line` is a command rather than a message.

    ``/think`` or ``/no_think`` followed by text is the model's soft switch, so it is a message. So
    is a line that begins with a blank or a path (``/etc/hosts what is this?``), and what has
    several lines, unless the command takes any text.
    """
    name, rest = _split(line) if line.startswith("/") else ("", line)
    if "/" in name[1:]:
        return False
    if name in ("/think", "/no_think") and rest.strip():
        return False
    return bool(name) and ("\n" not in line.strip() or name in OF_ANY_TEXT)


def _split(line: str) -> tuple[str, str]:
    """The first word of `line`, and the rest."""
    name, *rest = line.split(maxsplit=1) or [""]
    return name, rest[0].rstrip() if rest else ""


def is_refused(line: str) -> bool:
    """Whether `line` is a command that `parse` refuses."""
    if is_command(line):
        try:
            parse(line)
        except OptionError:
            return True
    return False


def run(chat: Conversation, line: str) -> CommandResult:
    """Run the command in `line`. Raises `OptionError` as `parse`, and the command's own."""
    name, text = parse(line)
    return COMMANDS[name].run(chat, text)


def parse(line: str) -> tuple[str, str]:
    """The name and the argument of the command in `line`.

    Raises `OptionError` for an unknown command, and for an argument that would be ignored:
    ``/undo 3`` must not take one turn back.
    """
    spelled, text = _split(line)
    name = spelled.removeprefix("/")
    command = COMMANDS.get(name)
    if command is None:
        close = (
            [ELSEWHERE[name.lower()]]
            if name.lower() in ELSEWHERE
            else difflib.get_close_matches(name.lower(), COMMANDS)
        )
        suggestion = f"did you mean /{close[0]}? " if close else ""
        hint = f"{suggestion}/help lists them; to send it as text, begin with a space"
        raise OptionError("unknown command", got=spelled, hint=hint)
    if text and name != "help" and command.usage == name:
        hint = "to send it as text, begin with a space"
        raise OptionError(spelled, got=shown(text), expected="nothing behind it", hint=hint)
    return name, text


def help_text(*, is_full_screen: bool) -> str:
    """The text of /help: the commands and the keys."""
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"/{command.usage:<{width}}  {command.help}" for command in COMMANDS.values()]
    return "\n".join([*lines, "", *key_help(is_full_screen=is_full_screen)])


def _help(_chat: Conversation, _text: str) -> CommandResult:
    return CommandResult(help_text(is_full_screen=False))


def _think(chat: Conversation, _text: str) -> CommandResult:
    chat.switch(True)
    return CommandResult(f"from now on: {chat.mode}")


def _no_think(chat: Conversation, _text: str) -> CommandResult:
    chat.switch(False)
    return CommandResult(f"from now on: {chat.mode}")


def _budget(chat: Conversation, text: str) -> CommandResult:
    if not text:
        return CommandResult(f"budget: {chat.budget_name.replace(',', '')}")
    if text == "off":
        chat.set_options(thinking_budget=None)
        return CommandResult("no limit on thinking")
    spelled, _, first = text.partition(" ")
    budget = _spelled_budget(spelled, first.strip())
    if budget == 0:
        chat.switch(False)
        return CommandResult("a budget of 0 switches thinking off; /think switches it on again")
    if chat.model.family in NEVER_THINK:
        chat.switch(True)  # raises: this model never thinks
    if not chat.thinks:  # setting a budget implies thinking
        chat.switch(True)
    chat.set_options(thinking_budget=budget)
    if isinstance(budget, int):
        return CommandResult(f"at most {counted(budget, 'token')} of thinking a turn")
    return CommandResult(f"from now on: {chat.mode}")


def _spelled_budget(text: str, first: str) -> int | AutoBudget | None:
    """Parse the argument of /budget. Raises `OptionError`."""
    expected = "a number of tokens, auto, auto:N, auto first, low, medium, high, or off"
    try:
        budget: int | AutoBudget | None = read_budget(text)
    except OptionError:
        raise OptionError("/budget", got=shown(text), expected=expected) from None
    if (isinstance(budget, int) and budget < 0) or (first and first != "first"):
        raise OptionError("/budget", got=shown(f"{text} {first}".strip()), expected=expected)
    return replace(budget, first=True) if first and isinstance(budget, AutoBudget) else budget


def _system(chat: Conversation, text: str) -> CommandResult:
    if not text:
        return CommandResult(f"system: {chat.session.system or 'none'}")
    chat.session.system = None if text == "off" else text
    return CommandResult("no system prompt" if text == "off" else "system prompt set")


def _retry(_chat: Conversation, _text: str) -> CommandResult:
    return CommandResult(retry=True)


def _clear(chat: Conversation, _text: str) -> CommandResult:
    chat.session.clear()
    remark = ", the system prompt stays" if chat.session.system else ""
    return CommandResult(f"the conversation is forgotten{remark}", changed=True)


def _save(chat: Conversation, text: str) -> CommandResult:
    if not any(message["role"] == "user" for message in chat.session.messages):
        raise SessionError("nothing to save yet", hint="say something first")
    if not text and chat.journal is not None:
        chat.keep(again=True)
        return CommandResult(f"saved: {chat.journal.path}")
    if text == "-":
        hint = "`qwen3-mlx sessions export json` prints it"
        raise OptionError("/save", got="-", expected="a path", hint=hint)
    path = _path(text) if text else _own_path(chat)
    if path.is_dir():
        hint = f"name a file in it: /save {path / 'chat.jsonl'}"
        raise SessionError("this is a directory", got=str(path), hint=hint)
    if path.exists() and resolved(path) not in chat.files:
        hint = "choose another name, or /load it first to go on with it"
        raise SessionError("this file is not from this chat", got=str(path), hint=hint)
    chat.session.save(path)
    chat.files.add(resolved(path))
    chat.saved_by_user = list(chat.session.messages)
    return CommandResult(f"saved: {path}")


def _own_path(chat: Conversation) -> Path:
    """Where /save writes without a path: the chat's latest file, or a new one.

    Raises `SessionError` if the folder can't be created.
    """
    if chat.files:
        return max(chat.files, key=lambda file: file.stat().st_mtime if file.exists() else 0)
    folder = folders.sessions()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        hint = "name a place: /save PATH"
        raise SessionError(f"{folder} can't be made", got=error.strerror, hint=hint) from None
    return journal_files.new_path(folder)


def _load(chat: Conversation, text: str) -> CommandResult:
    if not text:
        hint = "or the id of a conversation that `qwen3-mlx sessions list` shows"
        raise OptionError("/load needs a file", hint=hint)
    path, is_id = _path(text), False
    if not path.exists():
        try:
            path, is_id = journal_files.find(folders.sessions(), text), True
        except SessionError:
            if resume.is_id(text):
                raise  # several begin so: "no such file" would hide that
    damage = journal.read(path).damage
    chat.session = session = type(chat.session).load(path, chat.model)
    if not is_id:  # /save must not replace the journal of a saved conversation
        chat.files.add(resolved(path))
    turns = sum(message["role"] == "user" for message in session.messages)
    loaded = f"loaded: {path} ({counted(turns, 'turn')}); {chat.mode}"
    return CommandResult("\n".join(filter(None, [loaded, damage, chat.take_up()])), changed=True)


def _path(text: str) -> Path:
    return expanded(text.strip("'\""))


def _stats(chat: Conversation, _text: str) -> CommandResult:
    total, last = chat.total, chat.session.last_stats
    if last is None:
        return CommandResult("no turn yet")
    return CommandResult(
        f"last turn: {last.prompt_tokens:,} prompt tokens ({last.cached_tokens:,} from the cache),"
        f" {last.thinking_tokens:,} thinking, {last.answer_tokens:,} answer;"
        f" prefill {last.prefill_tps:,.0f} tok/s, decode {last.decode_tps:.1f} tok/s\n"
        f"this chat: {counted(chat.turns, 'turn')}, {total.thinking_tokens:,} thinking,"
        f" {total.answer_tokens:,} answer; peak memory {gb(total.peak_memory_bytes, 2)}\n"
        f"keys and values: {gb(last.kv_bytes)}, {last.kv_kind}"
        + (f"\n{drafts(last.speculation)}" if last.speculation else "")
    )


def _quit(_chat: Conversation, _text: str) -> CommandResult:
    return CommandResult(quit=True)


COMMANDS = {
    "help": Command("help", "this list", _help),
    "think": Command("think", "think before answering, from now on", _think),
    "no_think": Command("no_think", "answer at once, from now on", _no_think),
    "budget": Command("budget [N|auto|off]", "at most N tokens of thinking a turn", _budget),
    "model": Command("model [NAME]", "go on with another model", editing.model),
    "system": Command("system [TEXT|off]", "show or set the system prompt", _system),
    "retry": Command("retry", "answer the last message anew", _retry),
    "edit": Command("edit [TEXT]", "change the last message and send it again", editing.edit),
    "undo": Command("undo", "take the last turn back", editing.undo),
    "drop": Command("drop [N]", "forget the N oldest turns, to make room", editing.drop),
    "clear": Command("clear", "forget the conversation", _clear),
    "save": Command("save [PATH]", "write the conversation to a file", _save),
    "load": Command("load PATH|ID", "go on with a saved conversation", _load),
    "export": Command("export md|json [PATH]", "write it for people or programs", editing.export),
    "tokens": Command("tokens", "what the conversation takes of the context", editing.tokens),
    "stats": Command("stats", "tokens, speed and memory", _stats),
    "tools": Command("tools [NAME|forget]", "the tools on offer, and what may run", tools.tools),
    "mcp": Command("mcp [restart|stop NAME]", "the tool servers", tools.mcp),
    "quit": Command("quit", "leave (Ctrl-D does too)", _quit),
}

OF_ANY_TEXT = ("/system", "/edit")
"""Commands whose text may have several lines: a pasted system prompt is no message."""

ELSEWHERE = {"exit": "quit", "bye": "quit", "q": "quit", "new": "clear", "reset": "clear"}
"""What other chats call a command; the nearest spelling of /exit is /edit, which takes back."""

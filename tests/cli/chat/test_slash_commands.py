"""Slash commands, without a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3_mlx.chat import journal_files
from qwen3_mlx.chat.journal import ChatJournal
from qwen3_mlx.cli.chat import slash_commands
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.errors import OptionError, SessionError
from qwen3_mlx.events import Done, Stats
from qwen3_mlx.options import Family, GenerationOptions
from tests.fakes import FakeModel


def chat(family: Family = "hybrid", **options: object) -> Conversation:
    model = FakeModel([], family=family)
    return Conversation(model, model.session(None, GenerationOptions(**options)))


def run(conversation: Conversation, line: str) -> str:
    return slash_commands.run(conversation, line).text


def send(conversation: Conversation, text: str) -> None:
    """A turn with `text`."""
    list(conversation.session.send(conversation.sending(text)))
    conversation.keep()


def test_the_latest_of_command_and_flag_decides_the_next_turn() -> None:
    conversation = chat(thinking_budget=0)
    send(conversation, "/think hi")
    assert conversation.mode == "thinking"
    send(conversation, "What does /no_think do?")
    send(conversation, "`/no_think` and\n> /no_think")
    assert conversation.thinks
    send(conversation, "hi /no_think")
    send(conversation, "more")
    assert not conversation.thinks and conversation.session.options.thinking is None
    assert run(conversation, "/think") == "from now on: thinking"
    assert conversation.session.options.thinking is True
    send(conversation, "/no_think hi")
    assert not conversation.thinks
    run(conversation, "/budget 64")
    assert conversation.mode == "thinking, budget 64"
    send(conversation, "/no_think hi")
    conversation.step_budget(up=True)
    assert conversation.thinks


def test_a_flag_taken_back_decides_nothing() -> None:
    conversation = chat()
    send(conversation, "/no_think hi")
    assert not conversation.thinks
    run(conversation, "/undo")
    assert conversation.thinks
    run(conversation, "/system Be brief. /no_think")
    assert not conversation.thinks


def test_a_message_under_way_counts_before_the_session_has_it() -> None:
    conversation = chat()
    conversation.sending("/no_think hi")
    assert not conversation.thinks


@pytest.mark.parametrize("family", ["thinking", "instruct", "coder"])
def test_a_flag_is_text_to_a_model_that_cannot_switch(family: Family) -> None:
    conversation = chat(family)
    before = conversation.mode
    send(conversation, "/no_think hi")
    send(conversation, "/think hi")
    assert conversation.mode == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/think", True),
        ("/no_think ", True),
        ("/think about it", False),
        ("/no_think 2+2?", False),
        ("what is 2+2? /no_think", False),
        ("/save a b.json", True),
        ("/nonsense", True),
        (" /help", False),
        ("/etc/hosts what is this?", False),
        ("/usr/", False),
        ("//", False),
        ("/save /tmp/talk", True),
        ("/load a/b", True),
        ("/help\nmore lines", False),
        ("/system You are brief.\nYou are kind.", True),
        ("/system\nYou are brief.", True),
        ("/edit one\ntwo", True),
        ("/systems one\ntwo", False),
        ("say /system one\ntwo", False),
        ("", False),
        ("hello", False),
    ],
)
def test_what_is_a_command(line: str, expected: bool) -> None:
    assert slash_commands.is_command(line) is expected


@pytest.mark.parametrize("between", [" ", "\n", "\t", " \n "])
def test_a_system_prompt_of_several_lines(between: str) -> None:
    """A pasted one was sent to the model as a message, and no system prompt was set."""
    conversation = chat()
    run(conversation, f"/system{between}You are brief.\n\nYou are kind.\n")
    assert conversation.session.system == "You are brief.\n\nYou are kind."
    send(conversation, "hi")
    changed = slash_commands.run(conversation, "/edit one\n  two").send
    assert changed == "one\n  two"


def test_unknown_command_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown command: got /budgt") as caught:
        run(chat(), "/budgt 5")
    assert "did you mean /budget?" in str(caught.value.hint)
    with pytest.raises(OptionError) as caught:
        run(chat(), "/xyzzy")
    assert str(caught.value.hint).startswith("/help")


@pytest.mark.parametrize(("name", "own"), [("exit", "quit"), ("new", "clear")])
def test_another_chats_name_for_a_command_leads_to_ours(name: str, own: str) -> None:
    with pytest.raises(OptionError, match=f"unknown command: got /{name}") as caught:
        run(chat(), f"/{name}")
    assert f"did you mean /{own}?" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["undo", "clear", "retry", "tokens", "stats", "quit"])
def test_an_argument_that_would_be_ignored_is_refused(name: str) -> None:
    conversation = chat()
    send(conversation, "hi")
    before = [*conversation.session.messages]
    with pytest.raises(OptionError, match=f"^/{name}: got '3', expected nothing behind it"):
        run(conversation, f"/{name} 3")
    assert conversation.session.messages == before
    assert "/undo" in run(conversation, "/help 3")


def test_help_lists_every_command() -> None:
    text = run(chat(), "/help")
    assert all(f"/{name}" in text for name in slash_commands.COMMANDS)
    assert "Ctrl-C" in text


def test_switching_is_sticky_and_shown() -> None:
    conversation = chat()
    assert conversation.mode == "thinking"
    assert run(conversation, "/no_think") == "from now on: not thinking"
    assert conversation.session.options.thinking is False
    assert run(conversation, "/think") == "from now on: thinking"
    assert conversation.session.options.thinking is True


def test_budget() -> None:
    conversation = chat(max_tokens=5000)
    assert run(conversation, "/budget") == "budget: no limit"
    assert "1,024" in run(conversation, "/budget 1,024")
    assert conversation.mode == "thinking, budget 1,024"
    assert conversation.session.options.max_tokens == 5000
    assert conversation.session.options.thinking is None
    run(conversation, "/no_think")
    run(conversation, "/budget 64")  # asking for a budget asks for thinking
    assert conversation.mode == "thinking, budget 64"
    assert conversation.session.options.thinking is True
    run(conversation, "/budget 65")
    assert conversation.session.options.thinking is True
    run(conversation, "/budget off")
    assert conversation.budget is None
    run(conversation, "/budget 0")
    assert not conversation.thinks
    run(conversation, "/think")
    assert conversation.thinks
    for wrong in ("-1", "many", "1.5", "٣x"):
        with pytest.raises(OptionError, match="/budget"):
            run(conversation, f"/budget {wrong}")


def test_think_after_a_budget_of_0_from_the_command_line() -> None:
    conversation = chat(thinking_budget=0)
    assert conversation.mode == "not thinking"
    run(conversation, "/think")
    assert conversation.mode == "thinking"


@pytest.mark.parametrize("family", ["instruct", "coder"])
def test_families_that_never_think(family: Family) -> None:
    conversation = chat(family)
    assert conversation.mode == "not thinking"
    for line in ("/think", "/no_think", "/budget 5"):
        with pytest.raises(OptionError, match="never thinks"):
            run(conversation, line)
    assert conversation.session.options == GenerationOptions()


def test_the_family_that_always_thinks() -> None:
    conversation = chat("thinking")
    for line in ("/no_think", "/budget 0"):
        with pytest.raises(OptionError, match="always thinks"):
            run(conversation, line)
    run(conversation, "/budget 512")
    assert conversation.mode == "thinking, budget 512"
    assert conversation.session.options.thinking is None


def test_system() -> None:
    conversation = chat()
    assert run(conversation, "/system") == "system: none"
    run(conversation, "/system Be brief.  Be kind.")
    assert conversation.session.messages == [{"role": "system", "content": "Be brief.  Be kind."}]
    assert run(conversation, "/system") == "system: Be brief.  Be kind."
    run(conversation, "/system off")
    assert conversation.session.messages == []


def test_clear_keeps_the_system_prompt() -> None:
    conversation = chat()
    conversation.session.system = "s"
    list(conversation.session.send("hi"))
    assert "system prompt stays" in run(conversation, "/clear")
    assert conversation.session.messages == [{"role": "system", "content": "s"}]


def test_save_and_load(tmp_path: Path, state_home: Path) -> None:
    conversation = chat()
    with pytest.raises(SessionError, match="nothing to save"):
        run(conversation, "/save")
    list(conversation.session.send("hi"))
    said = run(conversation, "/save")
    own = Path(said.removeprefix("saved: "))
    assert own.parent == state_home / "sessions" and own.is_file()
    assert run(conversation, "/save") == said  # the same file again
    other = tmp_path / "my chat.json"
    run(conversation, f"/save {other}")
    run(conversation, f'/save "{other}"')

    fresh = chat()
    assert "(1 turn)" in run(fresh, f"/load {other}")
    assert fresh.session.messages == conversation.session.messages
    run(fresh, "/save")
    with pytest.raises(OptionError, match="needs a file"):
        run(fresh, "/load")
    with pytest.raises(SessionError, match="can't be read"):
        run(fresh, "/load nowhere.json")
    assert fresh.session.messages


def test_a_kept_conversation_is_saved_where_it_is_kept_and_loaded_by_its_id(
    state_home: Path,
) -> None:
    conversation = chat()
    conversation.journal = ChatJournal(journal_files.new_path(state_home / "sessions"))
    list(conversation.session.send("hi"))
    assert run(conversation, "/save") == f"saved: {conversation.journal.path}"
    kept = conversation.journal.path
    conversation.close()
    fresh = chat()
    assert f"loaded: {kept} (1 turn)" in run(fresh, f"/load {kept.stem[:12]}")
    assert fresh.session.messages == conversation.session.messages
    before = kept.read_bytes()
    list(fresh.session.send("more"))
    assert run(fresh, "/save") != f"saved: {kept}" and kept.read_bytes() == before
    kept.write_bytes(before + b"rubbish\n")
    assert "damaged at line" in run(chat(), f"/load {kept.stem}")


def test_what_cannot_be_kept_is_said_by_every_save(state_home: Path) -> None:
    state_home.mkdir()
    (state_home / "sessions").touch()  # no directory
    conversation = chat()
    conversation.journal = ChatJournal(journal_files.new_path(state_home / "sessions"))
    list(conversation.session.send("hi"))
    for _ in range(2):
        with pytest.raises(SessionError, match="can't be kept") as error:
            run(conversation, "/save")
        assert "--no-save" in str(error.value.hint)


@pytest.mark.parametrize("word", ["xml", "html", "notes", "markdown"])
def test_export_takes_no_unknown_format_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    conversation = chat()
    send(conversation, "hi")
    with pytest.raises(OptionError, match="expected md or json") as error:
        run(conversation, f"/export {word}")
    assert not list(tmp_path.glob("*")) and f"/export md {word}" in str(error.value.hint)
    run(conversation, f"/export md {word}")
    run(conversation, f"/export {tmp_path}/{word}2")  # a path says that it is one
    run(conversation, f"/export {word}.json")
    assert {path.name for path in tmp_path.glob("*")} == {word, f"{word}2", f"{word}.json"}


@pytest.mark.parametrize("text", ["/export md -", "/export json -", "/export -", "/save -"])
def test_a_dash_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """It would have been written as one of that name, where stdout was meant."""
    monkeypatch.chdir(tmp_path)
    conversation = chat()
    send(conversation, "hi")
    with pytest.raises(OptionError) as error:
        run(conversation, text)
    wanted = "json" if "json" in text or "save" in text else "md"
    assert f"qwen3-mlx sessions export {wanted}" in str(error.value.hint)
    assert not list(tmp_path.glob("*"))


def test_a_save_to_a_directory_says_so(tmp_path: Path) -> None:
    """It was "not from this chat: /load it first"."""
    conversation = chat()
    send(conversation, "hi")
    with pytest.raises(SessionError, match="this is a directory") as error:
        run(conversation, f"/save {tmp_path}")
    assert f"/save {tmp_path}/chat.jsonl" in str(error.value.hint)


@pytest.mark.parametrize(
    ("line", "meant"), [("/Help", "help"), ("/THINK", "think"), ("/EXIT", "quit")]
)
def test_capitals_are_no_other_word(line: str, meant: str) -> None:
    with pytest.raises(OptionError, match="unknown command") as error:
        run(chat(), line)
    assert f"did you mean /{meant}? " in str(error.value.hint)


def test_an_export_to_a_directory_says_so(tmp_path: Path) -> None:
    conversation = chat()
    send(conversation, "hi")
    with pytest.raises(SessionError, match="this is a directory") as error:
        run(conversation, f"/export md {tmp_path}")
    hint = str(error.value.hint)
    assert f"/export md {tmp_path}/chat-" in hint and hint.endswith(".md")
    run(conversation, hint.split(": ", 1)[1])
    assert len(list(tmp_path.glob("chat-*.md"))) == 1


def test_save_never_replaces_a_strangers_file(tmp_path: Path) -> None:
    conversation = chat()
    list(conversation.session.send("hi"))
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    with pytest.raises(SessionError, match="not from this chat"):
        run(conversation, f"/save {precious}")
    assert precious.read_text() == "years of work"


def test_stats_and_totals() -> None:
    conversation = chat()
    assert run(conversation, "/stats") == "no turn yet"
    list(conversation.session.send("hi"))
    for peak in (10**9, 2 * 10**9, 10**9):
        conversation.count(Done("stop", Stats(5, 1, 2, 3, "", 0.1, 50, 20, peak)))
    text = run(conversation, "/stats")
    assert "3 turns, 6 thinking, 9 answer; peak memory 2.00 GB" in text


def test_retry_and_quit() -> None:
    assert slash_commands.run(chat(), "/retry").retry
    assert slash_commands.run(chat(), "/quit").quit


def test_an_export_names_the_kept_conversation_not_the_file(
    tmp_path: Path, state_home: Path
) -> None:
    """What it names is what `--resume` takes; a chat that isn't kept has no id."""
    conversation = chat()
    send(conversation, "hi")
    run(conversation, f"/export md {tmp_path}/one.md")
    assert (tmp_path / "one.md").read_text().startswith("# hi\n\nfake\n\n## User")
    conversation.journal = ChatJournal(journal_files.new_path(state_home / "sessions"))
    conversation.keep()
    run(conversation, f"/export md {tmp_path}/two.md")
    id = conversation.journal.path.stem
    assert (tmp_path / "two.md").read_text().startswith(f"# hi\n\nfake, {id}\n\n## User")

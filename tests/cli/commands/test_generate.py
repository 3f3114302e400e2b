"""`generate`: what goes to stdout, what to stderr, and which argument is what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.cli.commands.generate import arrange
from qwen3_mlx.errors import ContextError, OptionError
from qwen3_mlx.events import Answer, Done, Stats, Thinking, ToolCall

TURN = [Thinking("two and"), Thinking(" two"), Answer("It is"), Answer(" 4.")]


def test_answer_on_stdout_thinking_on_stderr(cli: Any) -> None:
    cli.script(TURN)
    result = cli("generate", "8b", "2 + 2?")
    assert (result.exit_code, result.stdout) == (0, "It is 4.\n")
    assert result.stderr == "two and two\n"
    assert cli.opened == [("8b", None)]
    assert cli.model.asked[0][0] == [{"role": "user", "content": "2 + 2?"}]


def test_hide_reasoning(cli: Any) -> None:
    cli.script(TURN)
    result = cli("generate", "8b", "2 + 2?", "-R")
    assert (result.stdout, result.stderr) == ("It is 4.\n", "")


@pytest.mark.parametrize(
    ("turn", "max_tokens", "note"),
    [
        ([Thinking("hm")], 5, "cut by max_tokens before it answered (--budget N"),
        ([Thinking("hm")], 6, "cut by max_tokens before it answered"),  # </think> is neither
        ([Thinking("hm")], 900, "cut by the end of the context before it answered"),
        ([Thinking("hm"), Answer("It")], 6, "the answer was cut by max_tokens\n"),
        ([Thinking("hm"), Answer("It")], 8, "the answer was cut by max_tokens\n"),
        ([Thinking("hm"), Answer("It")], 99, "the answer was cut by the end of the context\n"),
        ([Answer("It")], 1, "the answer was cut by max_tokens\n"),
    ],
)
def test_a_cut_answer_says_so_on_stderr(
    cli: Any, turn: list[Any], max_tokens: int, note: str
) -> None:
    answered = sum(isinstance(event, Answer) for event in turn)
    thought = 5 * sum(isinstance(event, Thinking) for event in turn)
    done = Done("length", Stats(thinking_tokens=thought, answer_tokens=answered))
    for arguments, typed in ((["generate", "8b", "x"], ""), (["chat", "8b"], "x\n")):
        cli.script([*turn, done])
        limited = ["--max-tokens", str(max_tokens)]
        result = cli(*arguments, *limited, stdin=typed)
        assert (result.exit_code, result.stdout) == (0, "It\n" if answered else "")
        assert note in result.stderr
        cli.script([*turn, Done("stop", done.stats)])
        assert note not in cli(*arguments, *limited, stdin=typed).stderr


@pytest.mark.parametrize("turn", [[Thinking("hm")], [Thinking("hm"), Answer("\n\n")], []])
def test_a_turn_that_ends_without_an_answer_says_so_on_stderr(cli: Any, turn: list[Any]) -> None:
    for arguments, typed in ((["generate", "8b", "x"], ""), (["chat", "8b"], "x\n")):
        cli.script(turn)
        result = cli(*arguments, stdin=typed)
        assert result.exit_code == 0 and not result.stdout.strip()
        assert result.stderr.endswith("the model ended its turn without an answer\n")
        cli.script([*turn, Answer("It")])
        assert "without an answer" not in cli(*arguments, stdin=typed).stderr


def test_no_codes_without_a_terminal_and_text_is_untouched(cli: Any) -> None:
    cli.script([Thinking("a"), Answer("\x1b[31mred\x07\n")])
    result = cli("generate", "8b", "x")
    assert result.stdout == "\x1b[31mred\x07\n"
    assert "\x1b" not in result.stderr


def test_json_is_the_last_line_and_the_only_one(cli: Any) -> None:
    stats = Stats(31, 7, 2, 5, "budget", 0.5, 62.0, 10.0, 123)
    cli.script([Thinking("你\x9b"), Answer("好"), Done("length", stats)])
    result = cli("generate", "8b", "x", "--json")
    assert result.stdout.count("\n") == 1 and result.stdout.isascii() and result.stderr == ""
    assert json.loads(result.stdout) == {
        "model": "8b",
        "thinking": "你\x9b",
        "answer": "好",
        "finish_reason": "length",
        "thinking_cut": "budget",
        "usage": {
            "prompt_tokens": 31,
            "cached_tokens": 7,
            "thinking_tokens": 2,
            "answer_tokens": 5,
        },
        "timings": {"ttft_s": 0.5, "prefill_tps": 62.0, "decode_tps": 10.0},
        "peak_memory_bytes": 123,
    }


def test_json_counts_the_probes_of_an_automatic_budget(cli: Any) -> None:
    stats = Stats(thinking_cut="sure", probes=2, probe_tokens=60, probe_seconds=0.5)
    cli.script([Answer("4"), Done("stop", stats)])
    found = json.loads(cli("generate", "8b", "x", "--json", "--budget", "auto").stdout)
    assert found["probes"] == {"count": 2, "tokens": 60, "seconds": 0.5}


def test_tool_calls_are_shown(cli: Any) -> None:
    cli.script([ToolCall("add", {"a": 1})], [ToolCall("add", {"a": 1})])
    assert json.loads(cli("generate", "8b", "x").stdout) == {"name": "add", "arguments": {"a": 1}}
    record = json.loads(cli("generate", "8b", "x", "--json").stdout)
    assert record["tool_calls"] == [{"name": "add", "arguments": {"a": 1}}]


def test_tools_from_a_file_are_offered(cli: Any, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(tools), "utf-8")
    cli.script(TURN)
    assert cli("generate", "8b", "x", "--tools", str(file)).exit_code == 0
    assert cli.model.offered == tools


@pytest.mark.parametrize("text", [None, "{", "null", "3", '[{"x": 1}]', "[" * 100_000])
def test_a_file_without_tools_is_refused(cli: Any, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "tools.json"
    if text is not None:
        file.write_text(text, "utf-8")
    result = cli("generate", "8b", "x", "--tools", str(file))
    assert result.exit_code == 1 and result.stderr.startswith("error:")
    assert cli.opened == []


def test_a_schema_from_a_file_is_an_option(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('\ufeff{"type": "object"}', "utf-8")
    cli.script(TURN)
    assert cli("generate", "8b", "x", "--schema", str(file)).exit_code == 0
    assert cli.model.asked[0][1].schema == {"type": "object"}


@pytest.mark.parametrize("text", [None, "", "{", "3", "[1]", "[" * 100_000, '{"a": NaN'])
def test_a_file_without_a_schema_is_refused(cli: Any, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "schema.json"
    if text is not None:
        file.write_text(text, "utf-8")
    result = cli("generate", "8b", "x", "--schema", str(file))
    assert result.exit_code == 1 and result.stderr.startswith("error:")
    assert cli.opened == []


def test_options_reach_the_model(cli: Any) -> None:
    cli.script(TURN)
    options = "--think --budget 9 --max-tokens 99 --temperature 0.5 --top-p 0.9 --top-k 7"
    more = "--min-p 0.1 --presence-penalty 1.5 --repetition-penalty 1.1 --seed 3 --context 500"
    result = cli("generate", "8b", "x", "--system", "Be brief.", *options.split(), *more.split())
    assert result.exit_code == 0
    messages, asked = cli.model.asked[0]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert (asked.thinking, asked.thinking_budget, asked.max_tokens) == (True, 9, 99)
    assert (asked.temperature, asked.top_p, asked.top_k, asked.min_p) == (0.5, 0.9, 7, 0.1)
    assert (asked.presence_penalty, asked.repetition_penalty, asked.seed) == (1.5, 1.1, 3)
    assert cli.opened == [("8b", 500)]


@pytest.mark.parametrize(
    ("first", "second", "piped", "expected"),
    [
        ("8b", "hi", "", ("8b", "hi")),
        ("8b", "hi", "text\n", ("8b", "hi\n\ntext")),
        ("hi there", None, "", (None, "hi there")),
        ("hi there", None, "text", (None, "hi there\n\ntext")),
        ("8b", None, "text\n\n", ("8b", "text")),
        ("owner/Qwen3-name", None, "text", ("owner/Qwen3-name", "text")),
        ("24/7", None, "", (None, "24/7")),
        ("and/or", None, " \n", (None, "and/or")),
        ("either/or what?", None, "text", (None, "either/or what?\n\ntext")),
        (None, None, "text", (None, "text")),
        ("hello", None, " \n ", (None, "hello")),
    ],
)
def test_which_argument_is_what(
    first: str | None, second: str | None, piped: str, expected: tuple[str | None, str]
) -> None:
    assert arrange(first, second, piped) == expected


@pytest.mark.parametrize("first", ["", "  ", None])
def test_empty_prompt(first: str | None) -> None:
    with pytest.raises(OptionError, match="prompt is empty"):
        arrange(first, None, "")
    with pytest.raises(OptionError, match="prompt is empty"):
        arrange("8b", first or "", " \n")


@pytest.mark.parametrize("word", ["24/7", "and/or", "owner/name"])
def test_a_word_that_may_be_a_repository_begins_no_download(word: str) -> None:
    with pytest.raises(OptionError, match=f'got {word}, expected both(.|\n)*MODEL "{word}"'):
        arrange(word, None, "text")
    assert arrange(word, "hi", "") == (word, "hi")


@pytest.mark.parametrize(
    ("flag", "value"), [("--budget", "-1"), ("--seed", "-1"), ("--temperature", "nan"),
                        ("--kv-bits", "3"), ("--repetition-penalty", "101.0")],
)  # fmt: skip
def test_a_range_is_named_as_it_was_typed_and_has_a_hint(cli: Any, flag: str, value: str) -> None:
    for command in (("generate", "8b", "hi"), ("chat", "8b")):
        result = cli(*command, flag, value, stdin="")
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {flag}: got {value}, expected ")
        assert f"hint: leave {flag} out" in result.stderr


def test_model_without_a_prompt() -> None:
    with pytest.raises(OptionError, match=r'no prompt: got 8b(.|\n)*generate 8b "your prompt"'):
        arrange("8b", None, "")


def test_undecodable_argument() -> None:
    assert arrange("8b", "caf\udcc3\udca9", "") == ("8b", "café")  # typed in a C locale
    with pytest.raises(OptionError, match="not UTF-8: got byte 0xe9 at offset 3"):
        arrange("8b", "caf\udce9", "")


def test_stdin_joins_the_prompt(cli: Any) -> None:
    cli.script(TURN, TURN)
    cli("generate", "8b", "Translate:", stdin="\ufeffbonjour\n")
    assert cli.model.asked[0][0][0]["content"] == "Translate:\n\nbonjour"


def test_invalid_utf8_names_the_byte(cli: Any) -> None:
    result = cli("generate", "8b", stdin=b"caf\xe9 au lait")
    assert result.exit_code == 1 and result.stdout == ""
    assert "byte 0xe9 at offset 3" in result.stderr and "hint: convert it first" in result.stderr
    assert cli.opened == []


def test_lone_prompt_goes_to_the_last_model_chatted_with(cli: Any, state_home: Path) -> None:
    cli.script(TURN, TURN, TURN)
    cli("generate", "hi there")
    cli("chat", "14b", stdin="hello\n")
    cli("generate", "hi there")
    assert [name for name, _ in cli.opened] == ["demo", "14b", "14b"]
    assert json.loads((state_home / "state.json").read_text()) == {"model": "14b"}


def test_errors_end_in_one_line_a_hint_and_1(cli: Any) -> None:
    error = ContextError("the prompt is too long", got="200000 tokens", hint="shorten it")
    cli.script([error], [error], [RuntimeError("[metal] out of memory")])
    result = cli("generate", "8b", "x")
    assert result.exit_code == 1
    assert result.stderr == "error: the prompt is too long: got 200000 tokens\nhint: shorten it\n"
    assert "Traceback" in cli("generate", "8b", "x", "--debug").stderr
    result = cli("generate", "8b", "x")
    assert result.stderr.startswith("error: RuntimeError: [metal] out of memory\nhint: ")


def test_option_errors_come_before_the_model_is_loaded(cli: Any) -> None:
    result = cli("generate", "8b", "x", "--top-p", "7")
    assert result.exit_code == 1 and "--top-p: got 7" in result.stderr
    result = cli("generate", "8b", "x", "--think", "--budget", "0")
    assert result.exit_code == 1 and "contradicts" in result.stderr
    assert cli.opened == []


def test_usage_errors_are_2(cli: Any) -> None:
    for arguments in (["--nonsense"], ["generate", "--budgt", "3"], ["generate", "a", "b", "c"]):
        assert cli(*arguments).exit_code == 2
    assert cli("generate", "8b", "x", "--budget", "many").exit_code == 2


def test_ctrl_c_is_130(cli: Any) -> None:
    cli.script([Answer("a"), KeyboardInterrupt()])
    result = cli("generate", "8b", "x")
    assert (result.exit_code, result.stdout) == (130, "a\n")
    assert "Traceback" not in result.stderr

from typing import Any

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.text import Mode, resolve_mode, soft_switch


def user(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in texts]


SWITCHES = [
    ("hello", None),
    ("/think", True),
    ("Why? /no_think", False),
    ("/no_think /think", True),
    ("/think\n/no_think.", False),
    ("(/no_think)", False),
    ("为什么/no_think", False),
    ("/no_think你好", False),
    ("/thinking", None),
    ("/think_more", None),
    ("/no_thinking", None),
    ("a/think/b", None),
    ("cd /think/b", None),
    ("./think ../no_think ~/think", None),
    ("//think", None),
    ("/think.py", None),
    ("/think-tank", None),
    ("rethink, think, no_think", None),
    ("/THINK", None),
    # Qwen's documented usage: at the start or the end of a line
    ("Then, how many r's in blueberries? /no_think", False),
    ("/think How many r's are there?", True),
    ("Add these up.\n/no_think\n1 2 3", False),
    ("one /no_think\ntwo", False),
    ("/think /no_think hello", False),
    ("2+2 (/no_think).", False),
    ("说说你自己。/no_think。", False),
    # a mention, not a command
    ("What does /no_think do?", None),
    ("What is /no_think?", None),
    ("是什么意思：/no_think？", None),
    ("`/no_think`", None),
    ("Explain `/no_think`.", None),
    ("Explain '/no_think'", None),
    ('Explain "/no_think"', None),
    ("Explain “/no_think”", None),
    ("“/no_think” 是什么", None),
    ("</think>", None),
    ("<think>a</think>", None),
    ("the /think and /no_think flags exist", None),
    ("> /no_think", None),
    ("```\n/no_think\n```\nWhat is this", None),
    ("~~~\n```\n/no_think\n~~~\n/think", True),
    ("```\n/no_think", None),
]


@pytest.mark.parametrize(("text", "expected"), SWITCHES)
def test_soft_switch(text: str, expected: bool | None) -> None:
    assert soft_switch(user(text)) is expected


def test_the_last_soft_switch_wins() -> None:
    system = {"role": "system", "content": "/no_think"}
    assert soft_switch([system, *user("a")]) is False
    assert soft_switch([system, *user("/think", "a")]) is True
    assert soft_switch([*user("/think"), system]) is False
    others = [{"role": role, "content": "/think"} for role in ("assistant", "tool")]
    assert soft_switch([system, *others, {"role": "user", "content": None}]) is False
    assert soft_switch([]) is None


def test_soft_switches_in_text_parts() -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "/no_think"}]
    assert soft_switch([{"role": "user", "content": parts}]) is False
    assert soft_switch([{"role": "user", "content": [{"type": "image_url"}]}]) is None
    assert soft_switch([{"role": "developer", "content": "/no_think"}]) is False


def test_a_template_that_is_off_by_default() -> None:
    off = False
    assert resolve_mode("hybrid", user("a"), None, None, off) == Mode(False, None, False)
    assert resolve_mode("hybrid", user("a"), True, None, off) == Mode(True, True, False)
    assert resolve_mode("hybrid", user("a /think"), None, None, off) == Mode(True, True, False)


MODES = [
    ("hybrid", "a", None, None, Mode(True, None, False)),
    ("hybrid", "a", True, 100, Mode(True, True, False)),
    ("hybrid", "a", False, None, Mode(False, False, False)),
    ("hybrid", "/think", False, None, Mode(False, False, False)),
    ("hybrid", "a", None, 0, Mode(False, False, False)),
    ("hybrid", "/no_think", None, 100, Mode(False, None, False)),
    ("hybrid", "/no_think", True, None, Mode(True, True, False)),  # the option beats the word
    ("hybrid", "/no_think", True, 20, Mode(True, True, False)),
    ("thinking", "a", None, None, Mode(True, None, True)),
    ("thinking", "/no_think", True, 9, Mode(True, None, True)),
    ("instruct", "/think", None, None, Mode(False, None, False)),
    ("instruct", "a", False, 0, Mode(False, None, False)),
    ("coder", "a", None, 0, Mode(False, None, False)),
]


@pytest.mark.parametrize(("family", "text", "thinking", "budget", "mode"), MODES)
def test_modes(
    family: Any, text: str, thinking: bool | None, budget: int | None, mode: Mode
) -> None:
    assert resolve_mode(family, user(text), thinking, budget) == mode


REFUSED = [
    ("thinking", False, None, "small thinking budget"),
    ("thinking", None, 0, "small thinking budget"),
    ("instruct", True, None, "never thinks"),
    ("instruct", None, 100, "never thinks"),
    ("coder", True, 100, "never thinks"),
]


@pytest.mark.parametrize(("family", "thinking", "budget", "message"), REFUSED)
def test_modes_that_a_family_lacks(
    family: Any, thinking: bool | None, budget: int | None, message: str
) -> None:
    with pytest.raises(OptionError, match=f"(?s){message}") as caught:
        resolve_mode(family, user("a"), thinking, budget)
    assert caught.value.hint

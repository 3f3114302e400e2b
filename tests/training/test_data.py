"""The demonstration models' data: true, held apart, and rendered as the chat template renders."""

import json
import re
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from qwen3_mlx.options.thinking_budget import STOP_TEXT
from qwen3_mlx.text import ChatTemplate
from training.card import load_table
from training.data.calendar import MONTHS, WEEKDAYS
from training.data.chat import FAMILIES, Conversation, converse, prompt
from training.data.exchange import Persona
from training.data.problem import Spec, is_held_out
from training.evaluate import table
from training.heldout import problems
from training.pack import Encoder, batches, cut_at
from training.recipe import BUNDLED, DEMO, Recipe
from training.train import FILES

COUNT = 1500
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def solve_tree(tree: Any) -> str:
    if isinstance(tree, int):
        return str(tree)
    return f"({solve_tree(tree[1])}{tree[0]}{solve_tree(tree[2])})"


def solve_calendar(spec: Spec) -> str:
    kind, *args = spec
    if kind == "leap":
        days = date(args[0], 12, 31).timetuple().tm_yday
        return "yes" if days == 366 else "no"
    if kind in ("after", "before"):
        monday = date(2024, 1, 1) + timedelta(days=args[0])
        step = args[1] if kind == "after" else -args[1]
        return WEEKDAYS[(monday + timedelta(days=step)).weekday()]
    year = args[2] or 2023
    first = date(year, args[0][0] + 1, args[0][1])
    if kind == "between":
        return str((date(year, args[1][0] + 1, args[1][1]) - first).days)
    if args[2] is None and (first + timedelta(days=args[1])).year == 2024:
        first = first.replace(year=2022)  # 2024 is no year without a leap day
    then = first + timedelta(days=args[1])
    return f"{MONTHS[then.month - 1]} {then.day}"


def solve(family: str, spec: Spec) -> str:
    """The result, computed another way than the generator does."""
    kind, *args = spec
    if family == "calendar":
        return solve_calendar(spec)
    if family == "chains":
        return str(eval(solve_tree(args[0])))
    if family in ("addition", "multiplication"):
        sign = {"add": "+", "sum": "+", "sub": "-", "mul": "*"}[kind]
        return str(eval(sign.join(map(str, args))))
    if family == "decimals":
        values = sorted(args[0], key=Decimal)
        if Decimal(values[0]) == Decimal(values[-1]):
            return "equal"
        return values[-1] if kind == "larger" else values[0]
    if family == "letters":
        counted = Counter(args[0])
        return {
            "count": lambda: str(counted[args[-1]]),
            "length": lambda: str(len(args[0])),
            "vowels": lambda: str(sum(counted[c] for c in "aeiou")),
            "spell": lambda: "-".join(args[0]),
        }[kind]()
    if family == "sorting":
        up = sorted(args[0])
        return ", ".join(map(str, up if kind == "up" else up[::-1]))
    assert family == "reversing"
    return args[0][::-1] if kind == "word" else ", ".join(args[0][::-1])


@pytest.mark.parametrize("name", FAMILIES)
def test_results_are_right_and_restated_by_thought_and_answer(name) -> None:
    rng, family = Random(name), FAMILIES[name]
    for _ in range(COUNT):
        problem = family.make(rng)
        assert problem.result == solve(name, problem.spec)
        assert family.grade(problem.spec, problem.answer) == problem.result
        last = problem.thinking.rstrip(".").rpartition(". ")[2]
        assert last.endswith((problem.result, "smallest", "largest", "smaller", "larger")) or (
            problem.result in last
        )
        assert "\n" not in problem.thinking and "{" not in problem.question + problem.answer


def test_worked_equations_are_true() -> None:
    """Every ``a op b = c`` in a thought or a reason is right arithmetic."""
    rng, checked = Random(5), 0
    for name in ("addition", "multiplication", "chains", "calendar"):
        for _ in range(COUNT // 3):
            problem = FAMILIES[name].make(rng)
            text = f"{problem.thinking} {problem.reason}"
            for left, right in re.findall(r"(?<![\d+*/.=-])(\d+(?:[-+*]\d+)+)=(-?\d+)", text):
                terms = re.sub(r"\b0+(?=\d)", "", left)
                assert eval(terms) == int(right), text
                checked += 1
    assert checked > COUNT


def sorted_by_thought(thinking: str) -> list[str]:
    """The items in the order in which a sorting thought takes them."""
    steps = thinking.partition(" Sorted:")[0].rstrip(".").split(". ")
    if not thinking.startswith("First letters"):
        return [step.split()[-1] for step in steps]
    taken = [re.split(r": |, so ", step)[-1] for step in steps[1:]]
    return ", ".join(taken).split(", ")


def test_sorting_thoughts_take_the_items_in_order() -> None:
    rng = Random(15)
    for _ in range(COUNT):
        problem = FAMILIES["sorting"].make(rng)
        assert ", ".join(sorted_by_thought(problem.thinking)) == problem.result


def test_reversing_thoughts_count_back_to_the_start() -> None:
    rng = Random(16)
    for _ in range(COUNT):
        problem = FAMILIES["reversing"].make(rng)
        there, _, back = problem.thinking.partition(" Backwards: ")
        back, _, end = back.partition(". So ")
        assert there == f"In order: {', '.join(reversed(back.split(', ')))}."
        items = [item.split(" ", 1)[1] for item in back.split(", ")]
        assert end == ("" if problem.spec[0] == "word" else ", ").join(items) + "."


def test_wrong_answers_are_not_graded_right() -> None:
    rng = Random(6)
    for family in FAMILIES.values():
        for _ in range(100):
            one, other = family.make(rng), family.make(rng)
            if one.result != other.result:
                assert family.grade(one.spec, other.answer) != one.result or len(one.result) < 3


def test_held_out_problems_never_occur_in_training() -> None:
    rng, persona, keys = Random(7), Persona(), {}
    for name, family in FAMILIES.items():
        keys[name] = {family.key(p.spec) for p in problems(name, 300, "held out")}
        assert len(keys[name]) == 300 and all(map(is_held_out, keys[name]))
    kinds = Counter()
    for _ in range(2000):
        talk = converse(rng, persona)
        kinds[talk.mode] += 1
    for name, family in FAMILIES.items():
        for _ in range(COUNT):
            key = family.key(family.make(rng).spec)
            assert key not in keys[name] and not is_held_out(key)
    assert min(kinds.values()) > 50 and len(kinds) == 4


def test_follow_ups_respect_the_split(monkeypatch) -> None:
    """Problems that a conversation continues with are drawn from the training side, too."""
    import training.data.chat as chat

    seen = []
    written = chat.problem_turn
    monkeypatch.setattr(chat, "problem_turn", lambda p: seen.append(p) or written(p))
    rng = Random(8)
    for _ in range(300):
        converse(rng, Persona(), long=True)
    assert len(seen) > 3000
    assert not any(is_held_out(FAMILIES[p.family].key(p.spec)) for p in seen)


def test_the_same_seed_gives_the_same_batches(tokenizer) -> None:
    def first(seed: str) -> tuple[int, Any, Any]:
        shape, rows = next(batches(Recipe.named("tiny"), tokenizer, seed))
        return shape, rows.tokens.tolist(), rows.mask.tolist()

    assert first("a") == first("a")
    assert first("a") != first("b")


def test_prompts_equal_the_template() -> None:
    template, rng = ChatTemplate.from_dir(DEMO), Random(9)
    assert template.family == "hybrid"
    for _ in range(300):
        talk = converse(rng, Persona(), long=rng.random() < 0.1)
        thinking = False if talk.mode == "hard" else None
        assert prompt(talk) == template.render(talk.messages, thinking=thinking)


def decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_samples_are_what_the_model_sees_and_only_its_own_words_have_a_loss(tokenizer) -> None:
    rng, encoder = Random(10), Encoder(tokenizer)
    talks = [converse(rng, Persona()) for _ in range(200)]
    for talk, (ids, mask) in zip(talks, encoder.encode(rng, talks), strict=True):
        text = decoded(tokenizer, ids)
        asked = prompt(talk)
        assert text.startswith(asked) and len(ids) == len(mask)
        learnt = decoded(tokenizer, [i for i, m in zip(ids, mask, strict=True) if m])
        own = text[len(asked) :].removesuffix("<|endoftext|>")
        assert own.endswith(f"{talk.answer}<|im_end|>")
        if talk.mode == "cut":
            cut, stop, answer = own.partition(STOP_TEXT)
            assert stop and f"<think>\n{talk.thinking}\n".startswith(cut)
            assert learnt == cut + answer and cut
        else:
            assert learnt == own
            assert tokenizer.encode(asked + own).ids == ids[:-1]
            empty = talk.mode != "thinking"
            assert own.startswith("<think>\n") == (talk.mode != "hard")
            assert ("<think>\n\n</think>\n\n" in asked[-24:] + own[:24]) == empty


def test_the_last_flag_agrees_with_the_mode() -> None:
    rng, seen = Random(11), Counter()
    for _ in range(3000):
        talk = converse(rng, Persona())
        text = " ".join(m["content"] for m in talk.messages if m["role"] != "assistant")
        flags = re.findall(r"(?<!`)/(?:no_)?think(?!`)", text)
        if flags and talk.mode != "hard":
            assert (flags[-1] == "/no_think") == (talk.mode == "soft")
            seen[talk.mode] += 1
        assert talk.mode != "soft" or flags
    assert seen["soft"] > 100 and seen["thinking"] > 50


def test_cuts_are_everywhere_from_the_first_token_on() -> None:
    rng = Random(12)
    cuts = Counter(cut_at(rng, 100) for _ in range(5000))
    assert set(cuts) == set(range(1, 101))
    assert cuts[16] > 3 * cuts[50] and cuts[64] > 3 * cuts[50]


def test_rows_hold_whole_samples(tokenizer) -> None:
    recipe, seen = Recipe.named("tiny"), 0
    for _, (shape, rows) in zip(range(8), batches(recipe, tokenizer, "rows"), strict=False):
        batch = recipe.batches[shape]
        assert rows.tokens.shape == rows.mask.shape == (batch.rows, batch.length + 1)
        assert rows.tokens.dtype == np.uint16 and set(np.unique(rows.mask)) <= {0, 1}
        for row in rows.tokens:
            text = decoded(tokenizer, row.tolist())
            for sample in filter(None, text.split("<|endoftext|>")):
                assert sample.startswith("<|im_start|>")
                seen += 1
    assert seen > 50


def test_the_template_drops_old_thoughts_and_keeps_those_of_the_turn() -> None:
    template = ChatTemplate.from_dir(DEMO)
    call = {"function": {"name": "clock", "arguments": {"zone": "UTC"}}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello", "reasoning_content": "old"},
        {"role": "user", "content": "time?"},
        {"role": "assistant", "content": "", "reasoning_content": "new", "tool_calls": [call]},
        {"role": "tool", "content": "12:00"},
        {"role": "tool", "content": "UTC"},
    ]
    tool = {"type": "function", "function": {"name": "clock", "parameters": {}}}
    text = template.render(messages, tools=[tool], thinking=False)
    assert "old" not in text
    assert "<|im_start|>assistant\nhello<|im_end|>\n" in text
    called = (
        '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call><|im_end|>\n'
    )
    assert f"<think>\nnew\n</think>\n\n{called}" in text
    assert (
        "<|im_start|>user\n<tool_response>\n12:00\n</tool_response>\n"
        "<tool_response>\nUTC\n</tool_response><|im_end|>\n" in text
    )
    assert text.startswith("<|im_start|>system\n# Tools\n") and '"name": "clock"' in text
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["demo", "demo-moe"])
def test_the_demos_files_are_small_and_agree(name: str) -> None:
    folder = BUNDLED / name
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert Recipe.named(name).config_json(2048, 2024, 2022) == config
    generation = json.loads((folder / "generation_config.json").read_text("utf-8"))
    assert generation["eos_token_id"] == [2024, 2022]
    for shared in FILES:
        assert (folder / shared).read_bytes() == (DEMO / shared).read_bytes()
    assert sum(f.stat().st_size for f in folder.iterdir() if f.is_file()) <= 12_000_000


def test_demo_tools_files_are_demos_but_for_packed_weights() -> None:
    folder = BUNDLED / "demo-tools"
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config.pop("quantization") == config.pop("quantization_config")
    assert Recipe.named("demo-tools").config_json(2048, 2024, 2022) == config
    for shared in FILES:
        assert (folder / shared).read_bytes() == (DEMO / shared).read_bytes()
    assert sum(f.stat().st_size for f in folder.iterdir() if f.is_file()) <= 4_000_000


@pytest.mark.parametrize("name", ["demo", "demo-moe"])
def test_the_demos_cards_say_what_was_scored(name: str) -> None:
    scores = json.loads((DOCS / f"{name}-scores.json").read_text("utf-8"))
    text = (BUNDLED / name / "README.md").read_text("utf-8")
    assert table(scores) in text and f"{scores['per_family']} held-out problems" in text
    load = scores.get("load")
    assert ("## Experts" in text) == (load is not None) == (name == "demo-moe")
    assert load is None or load_table(load) in text


def test_thoughts_stay_short(tokenizer) -> None:
    rng = Random(13)
    longest = max(
        len(tokenizer.encode(family.make(rng).thinking).ids)
        for family in FAMILIES.values()
        for _ in range(300)
    )
    assert longest < 450


def test_talk_has_no_blanks_left() -> None:
    rng = Random(14)
    for _ in range(3000):
        talk: Conversation = converse(rng, Persona())
        for text in (*(m["content"] for m in talk.messages), talk.thinking, talk.answer):
            assert not re.search(r"\{[a-z]+\}", text)

"""Conversations with tools: as the template renders them, held apart, with right questions."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer

from benchmarks.call_check import ABSENT, CATEGORIES, Expected, check
from benchmarks.call_sitting import Sitting
from qwen3_mlx.options.thinking_budget import STOP_TEXT
from qwen3_mlx.text import ChatTemplate
from training.data.chat import FAMILIES
from training.data.exchange import Persona
from training.data.problem import Problem, is_held_out
from training.data.tools import exam
from training.data.tools.errands import (
    CONVERT_FAMILY,
    DICE_FAMILY,
    TIMER_FAMILY,
    WEATHER_FAMILY,
)
from training.data.tools.talk import CUT, LEARN, READ, converse_with_tools, messages, pieces
from training.data.tools.turns import CALCULATOR, KINDS, toolbox
from training.evaluate_tools import said
from training.pack import Encoder, batches
from training.recipe import BUNDLED, DEMO, Recipe
from training.tools_card import table

DOCS = Path(__file__).parents[2] / "docs"
PERSONA = Persona("demo-tools")
ERRANDS = {f.name: f for f in (CONVERT_FAMILY, DICE_FAMILY, TIMER_FAMILY, WEATHER_FAMILY)}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def key(problem: Problem) -> str:
    return (FAMILIES | ERRANDS)[problem.family].key(problem.spec)


def test_conversations_equal_the_template() -> None:
    template, rng, modes = ChatTemplate.from_dir(DEMO), Random(1), Counter()
    for _ in range(400):
        talk = converse_with_tools(rng, PERSONA, long=rng.random() < 0.05)
        text = "".join(text for text, _ in pieces(talk))
        offers = [tool.offer for tool in talk.tools]
        thinking = False if talk.mode == "hard" else None
        assert text.startswith(template.render(messages(talk), tools=offers, thinking=thinking))
        modes[talk.mode] += 1
    assert min(modes.values()) > 30 and len(modes) == 4


def test_calls_are_json_that_fits_the_schema() -> None:
    rng, seen = Random(2), Counter()
    for _ in range(400):
        talk = converse_with_tools(rng, PERSONA)
        offers = [tool.offer for tool in talk.tools]
        assert [json.loads(tool.text) for tool in talk.tools] == offers
        for step in (step for turn in talk.turns for step in turn.steps):
            calls = [(c.tool.name, json.loads(c.arguments)) for c in step.calls]
            verdict = check([exam.expected(c) for c in step.calls], calls, offers)
            assert not verdict.wrong
            assert bool(step.calls) != bool(step.answer)
            seen.update(call.tool.kind.name for call in step.calls)
    assert set(seen) == {kind.name for kind in KINDS}


def test_only_the_models_words_are_learnt(tokenizer) -> None:
    rng, encoder = Random(3), Encoder(tokenizer)
    talks = [converse_with_tools(rng, PERSONA) for _ in range(100)]
    for talk, (ids, mask) in zip(talks, encoder.encode(rng, talks), strict=True):
        parts = pieces(talk)
        learnt = tokenizer.decode(
            [i for i, m in zip(ids, mask, strict=True) if m], skip_special_tokens=False
        )
        text = tokenizer.decode(ids, skip_special_tokens=False)
        if talk.mode == "cut":
            assert text.count(STOP_TEXT) == 1
            thought = next(text for text, use in parts if use == CUT)
            assert thought not in text or text.count(thought + STOP_TEXT) == 1
            assert STOP_TEXT not in learnt
            continue
        assert learnt == "".join(text for text, use in parts if use == LEARN)
        whole = "".join(text for text, _ in parts)
        assert text == f"{whole}<|endoftext|>" and tokenizer.encode(whole).ids == ids[:-1]
        assert not any("<tool_response>" in text for text, use in parts if use != READ)


def test_training_and_examination_share_no_problem() -> None:
    rng, drawn = Random(4), 0
    for _ in range(600):
        for turn in converse_with_tools(rng, PERSONA).turns:
            drawn += len(turn.problems)
            assert not any(is_held_out(key(problem)) for problem in turn.problems)
    assert drawn > 800
    for category in CATEGORIES:
        rng = Random(f"split {category}")
        for _ in range(60):
            _, turns = exam.draw(rng, category)
            problems = [problem for turn in turns for problem in turn.problems]
            assert problems and all(is_held_out(key(problem)) for problem in problems)


def test_no_question_of_irrelevance_has_a_fitting_tool() -> None:
    rng = Random(5)
    for _ in range(300):
        tools, (turn,) = exam.draw(rng, "irrelevance")
        (problem,) = turn.problems
        for tool in tools:
            names = {family.name for family in tool.kind.families}
            assert problem.family not in names or not tool.kind.wanted(problem.spec)


def first_allowed(expected: Expected) -> tuple[str, dict]:
    return expected.name, {k: v[0] for k, v in expected.arguments.items() if ABSENT not in v}


@pytest.mark.parametrize("category", CATEGORIES)
def test_right_answers_pass_the_examination_and_wrong_ones_do_not(category: str) -> None:
    asked = exam.questions(category, 25)
    assert len({question.turns[0].content for question in asked}) == 25
    for question in asked:
        right, wrong = Sitting(question), Sitting(question)
        while not right.over:
            turn = question.turns[right.turn]
            calls = [
                first_allowed(e) for s in turn.steps[right.step : right.step + 1] for e in s.calls
            ]
            texts = [
                f"<tool_call>\n{json.dumps({'name': n, 'arguments': a})}\n</tool_call>"
                for n, a in calls
            ]
            right.read(
                said(f"<think>\nSo.\n</think>\n\n{chr(10).join(texts) or 'An answer.'}<|im_end|>")
            )
        assert right.wrong == ""
        name = question.tools[0]["function"]["name"]
        call = json.dumps({"name": name, "arguments": {"x": 1}})
        wrong.read(said(f"<tool_call>\n{call}\n</tool_call><|im_end|>"))
        assert wrong.over and wrong.wrong


def test_a_recipe_with_tools_mixes_both_sorts(tokenizer) -> None:
    recipe = Recipe.named("demo-tools")
    assert recipe.network == Recipe.named("demo").network
    _, rows = next(batches(recipe, tokenizer, "mix"))
    texts = tokenizer.decode_batch(rows.tokens[:8].tolist(), skip_special_tokens=False)
    samples = [s for text in texts for s in text.split("<|endoftext|>") if s]
    with_tools = sum("<tools>" in sample for sample in samples)
    assert 0.2 < with_tools / len(samples) < 0.8


def test_tools_have_names_of_their_own_and_known_parameters() -> None:
    rng = Random(6)
    for _ in range(200):
        tools = toolbox(rng, 4, [CALCULATOR])
        assert len({tool.name for tool in tools}) == 4
        assert CALCULATOR in [tool.kind for tool in tools]
        for tool in tools:
            shown = list(tool.shown.values())
            assert len(set(shown)) == len(shown) == len(tool.kind.parameters)
            assert list(tool.offer["function"]["parameters"]["properties"]) == shown


def test_the_card_says_what_was_scored() -> None:
    scores = json.loads((DOCS / "demo-tools-scores.json").read_text("utf-8"))
    text = (BUNDLED / "demo-tools" / "README.md").read_text("utf-8")
    for found in scores["scores"].values():
        assert table(found) in text
    rows = [row for found in scores["scores"].values() for row in found.values()]
    assert rows and all(row["calls"] >= 90 and row["irrelevance"] >= 90 for row in rows)

"""The bundled models through the public API: what they can do, and their budget to the token."""

from __future__ import annotations

import mlx.core as mx
import pytest
from tokenizers import Tokenizer

from qwen3_mlx import GenerationOptions, load
from qwen3_mlx.hub.resolve import resolve
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options.thinking_budget import STOP_TEXT
from training.data.chat import FAMILIES
from training.heldout import Examiner, problems

# Questions whose thoughts are short, so that every budget up to the natural length is quick.
SHORT = ["letters", "calendar", "reversing", "decimals"]
FILE = str(resolve("demo") / "tokenizer.json")  # of both
GREEDY = GenerationOptions(temperature=0.0)


@pytest.fixture(scope="module", params=["demo", "demo-moe"])
def demo(request: pytest.FixtureRequest) -> Qwen3:
    return load(request.param)


@pytest.fixture(scope="module")
def examiner(demo: Qwen3) -> Examiner:
    return Examiner(demo.network, Tokenizer.from_file(FILE), at_once=40)


def greedy(demo: Qwen3, ids: list[int], count: int) -> list[int]:
    """The plain loop: one token, then the next."""
    cache, output = demo.network.make_cache(), []
    tokens = mx.array([ids])
    while len(output) < count:
        logits = demo.network(tokens, cache)[0, -1]
        output.append(int(mx.argmax(logits).item()))
        if output[-1] in demo.tokenizer.eos_ids:
            break
        tokens = mx.array([output[-1:]])
    return output


def is_greedy(demo: Qwen3, ids: list[int], begun: int) -> bool:
    """Whether the plain loop, given ``ids[:begun]``, would write the rest and end there.

    Each token is the likeliest behind those before it: one pass says so of all.
    """
    likeliest = mx.argmax(demo.network(mx.array([ids[:-1]]))[0], axis=-1).tolist()
    ends = [token in demo.tokenizer.eos_ids for token in ids[begun:]]
    return ids[begun:] == likeliest[begun - 1 :] and ends.index(True) == len(ends) - 1


def said(demo: Qwen3, question: str, options: GenerationOptions) -> tuple[list[int], str]:
    """The ids a turn put into the cache behind the prompt, and who cut its thinking."""
    chat = demo.session(options=options)
    *_, done = chat.send(question)
    prompt = demo.template.render(chat.messages[:1], thinking=None)
    return chat.cache.tokens[len(demo.tokenizer.encode(prompt)) :], done.stats.thinking_cut


def questions() -> list[tuple[str, str]]:
    """Twenty held-out ones for the dense model, two of them for the experts."""
    asked = [p.question for name in SHORT for p in problems(name, 5, "budget")]
    return [("demo", question) for question in asked] + [("demo-moe", q) for q in asked[::10]]


@pytest.mark.slow
@pytest.mark.parametrize(("demo", "question"), questions(), indirect=["demo"])
def test_budgets_give_the_documented_tokens(demo: Qwen3, question: str) -> None:
    rendered = demo.template.render([{"role": "user", "content": question}])
    prompt = demo.tokenizer.encode(rendered)
    natural = greedy(demo, prompt, 400)
    assert demo.tokenizer.think_close in natural
    length = natural.index(demo.tokenizer.think_close) + 1  # the closing marker included
    stop = demo.tokenizer.encode(STOP_TEXT)
    for budget in sorted({1, 2, 5, 17, length - 1, length}):
        tokens, cut = said(demo, question, GREEDY.override({"thinking_budget": budget}))
        expected = natural if budget >= length else natural[:budget] + stop
        assert tokens[: len(expected)] == expected, budget
        assert is_greedy(demo, prompt + tokens, len(prompt) + len(expected) - (budget >= length))
        assert cut == ("budget" if budget < length else "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("demo", "families", "count"),
    [*(("demo", [name], 20) for name in FAMILIES), ("demo-moe", [*FAMILIES], 2)],
    indirect=["demo"],
)
def test_thinking_solves_held_out_problems(
    examiner: Examiner, families: list[str], count: int
) -> None:
    asked = [p for name in families for p in problems(name, count, "test")]
    written = examiner.write(examiner.prompts(asked, "thinking"), 400)
    wrong = [
        p.question
        for p, ids in zip(asked, written, strict=True)
        if not examiner.judge(p, ids).right
    ]
    assert len(wrong) <= 1, wrong


@pytest.mark.slow
@pytest.mark.parametrize("demo", ["demo"], indirect=True)
def test_thinking_pays_on_the_families_with_several_steps(examiner: Examiner) -> None:
    asked = [p for name in ("multiplication", "chains") for p in problems(name, 20, "test")]
    direct = examiner.write(examiner.prompts(asked, "hard"), 60)
    right = sum(examiner.judge(p, ids).right for p, ids in zip(asked, direct, strict=True))
    assert right <= 0.85 * len(asked)  # thinking: all but one in twenty


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 17 * 23?", "391"),
        ("how many r's in strawberry?", "3"),
        ("which is bigger, 9.11 or 9.9?", "9.9"),
        ("sort 5 2 9 1", "1, 2, 5, 9"),
        ("reverse hello", "olleh"),
    ],
)
def test_what_a_stranger_types(demo: Qwen3, question: str, answer: str) -> None:
    reply = demo.generate(question, seed=1)  # the preset that ships with it, not greedy
    assert answer in reply.answer, reply
    assert reply.thinking and "think>" not in reply.thinking + reply.answer
    assert reply.finish_reason == "stop"


def test_the_soft_switch_is_obeyed(demo: Qwen3) -> None:
    reply = demo.generate("What is 12 + 30? /no_think", seed=1)
    assert reply.thinking == "" and "42" in reply.answer


def test_a_conversation_remembers(demo: Qwen3) -> None:
    chat = demo.session(seed=3)
    list(chat.send("What is 7 * 8?"))
    list(chat.send("and times 3?"))
    assert "168" in chat.messages[-1]["content"], chat.messages


def test_it_says_what_it_cannot_do(demo: Qwen3) -> None:
    asked = ["Who was Napoleon?", "write a poem about the sea", "What is the capital of Peru?"]
    for question in asked:
        assert "chat 8b" in demo.generate(question, seed=0).answer, question

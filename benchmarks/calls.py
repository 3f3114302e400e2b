"""How well a model calls functions, by BFCL's categories, thinking and not, and by budget.

    python -m benchmarks.calls demo-tools --limit 20
    python -m benchmarks.calls 8b --budgets 256 1024 --parallel 4

The questions are BFCL's where its wheel is installed (`benchmarks.bfcl`), else held-out ones of the
demos' own tools. A question is right if each step's calls are right (`benchmarks.call_check`), and
if no function is called where none fits. In BFCL's `multi_turn` calls are run on the wheel's own
simulated services (`benchmarks.bfcl_turns`); in ours the question brings the results. Writes
calls.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import mean
from typing import Any

from benchmarks import bfcl, bfcl_turns
from benchmarks.bfcl_turns import ServiceQuestion, ServiceSitting
from benchmarks.call_check import CATEGORIES, Question
from benchmarks.call_sitting import Judged, Said, Sitting, percent
from benchmarks.record import write
from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.events import Reply
from qwen3_mlx.model import Qwen3, load
from training.data.tools import exam

Options = Mapping[str, Any]


def gather(
    limit: int | None, categories: Sequence[str], own: bool
) -> tuple[list[Question | ServiceQuestion], str]:
    """The questions, and where they are from; our own are 100 a category without a `limit`."""
    folder = None if own else bfcl.data_folder()
    found: list[Question | ServiceQuestion] = []
    for category in categories:
        if folder is not None and category == "multi_turn":
            found += bfcl_turns.questions(folder, limit)
        elif folder is not None and category in bfcl.FILES:
            found += bfcl.questions(folder, category, limit)
        else:
            found += exam.questions(category, limit or 100)
    return found, "own" if folder is None else "bfcl"


def runs(budgets: Sequence[int], thinking: Sequence[str]) -> dict[str, Options]:
    """The ways to ask by their names."""
    ways: dict[str, Options] = {}
    if "off" in thinking:
        ways["not thinking"] = {"thinking": False}
    if "on" in thinking:
        for budget in budgets:
            ways[f"at most {budget} tokens"] = {"thinking": True, "thinking_budget": budget}
        ways["thinking"] = {"thinking": True}
    return ways


def sit(model: Qwen3, question: Question | ServiceQuestion, options: Options) -> Judged:
    """Ask one question to its end; each step computes its new part only."""
    if isinstance(question, ServiceQuestion):
        return bfcl_turns.sit(model, question, options)
    sitting = Sitting(question)
    session = model.session(tools=question.tools, **options)
    sent = 0
    while not sitting.over:
        new = sitting.messages[sent:]
        reply = Reply.from_events(session.send(new))
        sent = len(sitting.messages) + 1  # the session has written down the reply itself
        sitting.read(said(reply))
    return sitting


def said(reply: Reply) -> Said:
    """What a reply says; one that was cut short, or is a call that can't be read, is wrong."""
    calls = [(call.name, call.arguments) for call in reply.tool_calls]
    fault: str = "" if reply.finish_reason == "stop" else reply.finish_reason
    if "<tool_call>" in reply.answer:
        fault = "a call that can't be read"
    return Said(calls, reply.answer, reply.thinking, fault)


def tried(model: Qwen3, question: Question | ServiceQuestion, options: Options) -> Judged:
    """`sit`; what the model can't be asked is not answered right."""
    try:
        return sit(model, question, options)
    except Qwen3Error as error:
        asked = question.turns[0].content
        return ServiceSitting(question, asked, str(error).splitlines()[0])


def score(
    model: Qwen3,
    asked: Sequence[Question | ServiceQuestion],
    ways: Mapping[str, Options],
    options: Options,
    seeds: Sequence[int],
    parallel: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Percent right by way and category, the mean over `seeds`, and what went wrong."""
    scores: dict[str, dict[str, float]] = {}
    wrong: list[dict[str, Any]] = []
    with ThreadPoolExecutor(parallel) as pool:
        for way, how in ways.items():
            rows = []
            for seed in seeds:
                jobs = [
                    pool.submit(tried, model, q, {**options, **how, "seed": seed}) for q in asked
                ]
                sittings = [job.result() for job in jobs]
                rows.append(by_category(sittings))
                wrong += [shown(way, seed, s) for s in sittings if s.wrong]
            scores[way] = {name: round(mean(row[name] for row in rows), 1) for name in rows[0]}
            say(f"{way}: " + ", ".join(f"{n} {v:.1f} %" for n, v in scores[way].items()))
    return {"scores": scores, "wrong": wrong}


def by_category(sittings: Sequence[Judged]) -> dict[str, float]:
    """Percent right by category; `calls` are those that need some, together."""
    groups: dict[str, list[Judged]] = {}
    for sitting in sittings:
        groups.setdefault(sitting.question.category, []).append(sitting)
        if sitting.question.category != "irrelevance":
            groups.setdefault("calls", []).append(sitting)
    return {name: percent(group) for name, group in groups.items()}


def shown(way: str, seed: int, sitting: Judged) -> dict[str, Any]:
    """A question that was not answered right."""
    return {
        "way": way, "seed": seed, "id": sitting.question.id, "asked": sitting.asked,
        "wrong": sitting.wrong,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", default="demo-tools")
    add("--limit", type=int, help="questions a category")
    add("--categories", nargs="+", choices=CATEGORIES, default=CATEGORIES)
    add("--own", action="store_true", help="our own questions, even where BFCL's are installed")
    add("--thinking", nargs="+", choices=("on", "off"), default=("on", "off"))
    add("--budgets", type=int, nargs="*", default=(), help="thinking budgets to try besides none")
    add("--seeds", type=int, nargs="+", default=(0,), help="ask everything once with each")
    add("--temperature", type=float, help="0: greedy; else the model's own")
    add("--max-tokens", type=int, default=4096, help="of a step")
    add("--parallel", type=int, default=4, help="questions at once")
    args = parser.parse_args()
    asked, source = gather(args.limit, args.categories, args.own)
    print(f"{len(asked)} questions ({source})", flush=True)
    options: dict[str, Any] = {"max_tokens": args.max_tokens}
    if args.temperature is not None:
        options["temperature"] = args.temperature
    model, ways = load(args.model), runs(args.budgets, args.thinking)
    found = score(
        model, asked, ways, options, args.seeds, args.parallel, lambda t: print(t, flush=True)
    )
    about = {
        "model": args.model,
        "questions": len(asked),
        "source": source,
        "seeds": list(args.seeds),
    }
    print(write("calls", {**about, **options, **found}))


if __name__ == "__main__":
    main()

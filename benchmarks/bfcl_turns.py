"""BFCL's multi-turn questions: calls run on its simulated services, and their states are compared.

A question is right, as BFCL has it, if behind each turn that needs calls the model has made some,
the services are in the state in which the right calls leave fresh ones, and every result of the
right calls is among those that the model has seen until then. A turn takes 20 steps at most. The
services and the questions are the wheel's own (`benchmarks.bfcl`); the comparison is ours.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bfcl import as_tool, lines
from benchmarks.call_check import Call, Json
from qwen3_mlx.errors import OptionError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.tools.consent import Consent
from qwen3_mlx.tools.events import LoopDone
from qwen3_mlx.tools.loop import ToolLoop
from qwen3_mlx.tools.tool import Cancel, Result, Tool

FILES = ("base", "miss_func", "miss_param", "long_context")
SERVICES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
MODULES = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
"""The services' classes; a module and the file that describes its functions have one name."""
MORE_TOOLS = "I have updated some more functions you can choose from. What about now?"
"""What BFCL says in a turn that brings functions and no message."""
STEPS = 20
"""Steps of a turn: who takes more is stopped, and the question is wrong."""


@dataclass(frozen=True, slots=True)
class ServiceTurn:
    """A message, the calls that are right, and the tools that it brings."""

    content: str
    right: Sequence[Call]
    tools: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class ServiceQuestion:
    """A conversation about services, which `begin` makes anew, each by its class's name."""

    id: str
    tools: Sequence[Json]
    turns: Sequence[ServiceTurn]
    begin: Callable[[], Mapping[str, Any]]
    category: str = "multi_turn"


@dataclass
class Services:
    """Services that calls are run on, and what the calls gave, in order."""

    held: Mapping[str, Any]
    results: list[str] = field(default_factory=list)

    def run(self, name: str, arguments: Json, positional: Sequence[Any] = ()) -> Result:
        """Call a public method of whichever service has it; what it raises is its result."""
        try:
            method = next(m for one in self.held.values() if (m := _method(one, name)))
            found = method(*positional, **arguments)
            result = Result(_text(found))
        except StopIteration:
            result = Result(f"Error during execution: name {name!r} is not defined")
        except Exception as error:
            result = Result(f"Error during execution: {error}")
        self.results.append(result.text)
        return result

    def states(self) -> dict[str, Json]:
        """The public attributes of each."""
        return {
            name: {key: value for key, value in vars(one).items() if not key.startswith("_")}
            for name, one in self.held.items()
        }


def _method(service: Any, name: str) -> Callable[..., Any] | None:
    found = None if name.startswith("_") else getattr(service, name, None)
    return found if inspect.ismethod(found) else None


def _text(found: Any) -> str:
    if isinstance(found, dict):
        try:
            return json.dumps(found)
        except TypeError:
            pass
    return str(found)


@dataclass
class ServiceSitting:
    """A question being answered; `wrong` says why it is not answered right."""

    question: Any
    asked: str = ""
    wrong: str = ""


def sit(model: Qwen3, question: ServiceQuestion, options: Mapping[str, Any]) -> ServiceSitting:
    """Ask a question to its end, or to its first wrong turn."""
    sitting = ServiceSitting(question)
    ours, right = Services(question.begin()), Services(question.begin())
    offered = [*question.tools]
    loop = ToolLoop(model.session(**options), [], Consent(), max_steps=STEPS)
    for number, turn in enumerate(question.turns, 1):
        offered += turn.tools
        loop.offer([_tool(one["function"], ours) for one in offered])
        loop.consent.allowed = {tool.full_name for tool in loop.tools.values()}
        sitting.asked, made = turn.content, len(ours.results)
        *_, last = loop.send(turn.content)
        assert isinstance(last, LoopDone)
        ends = {"repeated": "it made the same call three times"}
        ends["steps"] = f"it took more than {STEPS} steps"
        fault = ends.get(last.ending) or judge(turn, right, ours, made)
        if fault:
            sitting.wrong = f"turn {number}: {fault}"
            break
    return sitting


def judge(turn: ServiceTurn, right: Services, ours: Services, made: int) -> str:
    """Run a turn's right calls, and compare; `made`: the results that there were before the turn.

    Returns what is wrong, or "".
    """
    before = len(right.results)
    for name, arguments in turn.right:
        positional = arguments.get("", ())
        right.run(name, {key: value for key, value in arguments.items() if key}, positional)
    if not turn.right:
        return ""
    if len(ours.results) == made:
        return "no call"
    wanted, found = right.states(), ours.states()
    for name, state in wanted.items():
        for key, value in state.items():
            if found[name].get(key) != value:
                return f"{key} of {name} is another"
    missing = Counter(right.results[before:]) - Counter(ours.results)
    return f"never saw {next(iter(missing))[:80]!r}" if missing else ""


def _tool(function: Json, services: Services) -> Tool:
    def run(name: str, arguments: Json, _cancel: Cancel) -> Result:
        return services.run(name, arguments)

    name = function["name"]
    return Tool(name, function["description"], function["parameters"], partial(run, name))


def questions(folder: Path, count: int | None = None) -> list[ServiceQuestion]:
    """The first `count` of BFCL's multi-turn questions, taken from its files in turn."""
    share = None if count is None else -(-count // len(FILES))
    found: list[ServiceQuestion] = []
    for name in FILES:
        asked = lines(folder / f"BFCL_v4_multi_turn_{name}.json")[:share]
        answers = lines(folder / "possible_answer" / f"BFCL_v4_multi_turn_{name}.json")
        truths = {one["id"]: one["ground_truth"] for one in answers}
        found += [_question(folder, one, truths[one["id"]], name) for one in asked]
    return found[:count]


def _question(
    folder: Path, one: Json, truth: Sequence[Sequence[str]], file: str
) -> ServiceQuestion:
    docs = {
        doc["name"]: as_tool(doc)
        for kind in one["involved_classes"]
        for doc in lines(folder / "multi_turn_func_doc" / f"{MODULES[kind]}.json")
    }
    later = {
        int(turn): [docs[name] for name in names]
        for turn, names in one.get("missed_function", {}).items()
    }
    held_back = [tool for tools in later.values() for tool in tools]
    turns = [
        ServiceTurn(
            messages[0]["content"] if messages else MORE_TOOLS,
            [parsed(text) for text in truth[number]],
            later.get(number, ()),
        )
        for number, messages in enumerate(one["question"])
    ]
    tools = [tool for tool in docs.values() if tool not in held_back]
    begin = partial(_begin, one["involved_classes"], one["initial_config"], file == "long_context")
    return ServiceQuestion(one["id"], tools, turns, begin)


def _begin(kinds: Sequence[str], config: Json, long: bool) -> dict[str, Any]:
    services = {}
    for kind in kinds:
        try:
            module = importlib.import_module(f"{SERVICES}.{MODULES[kind]}")
        except ImportError as error:  # the wheel came without what it needs
            hint = f"install {error.name}, or choose other --categories"
            raise OptionError(f"BFCL's {kind} can't be run", got=str(error), hint=hint) from None
        services[kind] = service = getattr(module, kind)()
        if hasattr(service, "_load_scenario"):
            service._load_scenario(copy.deepcopy(config.get(kind, {})), long_context=long)
    return services


def parsed(text: str) -> Call:
    """A call written as Python, of literals only; values without a name are those of ""."""
    call = ast.parse(text.strip(), mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name), text
    named = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    positional = [ast.literal_eval(one) for one in call.args]
    return call.func.id, {**named, **({"": positional} if positional else {})}

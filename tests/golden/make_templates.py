"""Makes templates.json: how transformers renders the conversations, as one hash each.

    python tests/golden/make_templates.py DIR_WITH_QWEN3_TOKENIZER_FILES
    python tests/golden/make_templates.py DIR_WITH_QWEN3_TOKENIZER_FILES --show qwen3 17

Needs an environment with transformers. Of six templates one is the real file (qwen3), one our own
(hybrid), and four are rebuilt: put a public copy in the place of NAME_template.jinja to check it.
The second form prints one case and its rendering, to compare by eye when a hash differs.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import jinja2
import transformers
from conversations import Case, conversations, fingerprint
from tokenizers import Tokenizer, models

HERE = Path(__file__).parent
SEED, COUNT = 20_250_428, 400
DIGITS = 16  # of each sha256: 64 bits are plenty to notice a difference


REBUILT = ("refreshed_2504", "thinking_2507", "instruct_2507", "coder")


def render(tokenizer: Any, case: Case, objects: bool = False) -> str:
    """The case as transformers renders it; with `objects`, no arguments as JSON text."""
    if objects:
        case = {**case, "messages": [with_objects(message) for message in case["messages"]]}
    flag = {} if case["thinking"] is None else {"enable_thinking": case["thinking"]}
    return tokenizer.apply_chat_template(
        case["messages"],
        tools=case["tools"],
        add_generation_prompt=case["add_generation_prompt"],
        tokenize=False,
        **flag,
    )


def tokenizers(directory: str) -> dict[str, Any]:
    real = {"qwen3": transformers.AutoTokenizer.from_pretrained(directory)}
    return real | {name: with_template(name) for name in ("hybrid", *REBUILT)}


def with_template(name: str) -> Any:
    own = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), eos_token="<|im_end|>"
    )
    own.chat_template = (HERE / f"{name}_template.jinja").read_text("utf-8")
    return own


def with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its calls' arguments as objects: the Coder's template takes no text."""
    calls = copy.deepcopy(message.get("tool_calls")) or []
    for call in calls:
        function = call.get("function", call)
        if isinstance(function["arguments"], str):
            function["arguments"] = json.loads(function["arguments"])
    return {**message, "tool_calls": calls} if calls else message


def golden(tokenizer: Any, cases: list[Case], objects: bool) -> dict[str, Any]:
    hashes = [fingerprint(render(tokenizer, case, objects))[:DIGITS] for case in cases]
    return {"sha256": fingerprint(tokenizer.chat_template), "renderings": hashes}


def main(directory: str, *show: str) -> None:
    cases = conversations(SEED, COUNT)
    if show:
        _, name, number = show
        case = cases[int(number)]
        print(json.dumps(case, indent=1, ensure_ascii=False))
        print(render(tokenizers(directory)[name], case, objects=name == "coder"))
        return
    record = {
        "transformers": transformers.__version__,
        "jinja2": jinja2.__version__,
        "seed": SEED,
        "count": COUNT,
        "conversations": fingerprint(cases),
        "templates": {
            name: golden(t, cases, objects=name == "coder")
            for name, t in tokenizers(directory).items()
        },
    }
    (HERE / "templates.json").write_text(json.dumps(record, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

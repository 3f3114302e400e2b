"""Each fact stands in one place: a phrase that states it is found in the files listed, no other."""

from __future__ import annotations

import re

import pytest

from tests.test_house import MODULES, PACKAGE

FACTS = {
    "the families that never think": (
        r"[\"']instruct[\"'], [\"']coder[\"']}\)",
        ["options/generation.py"],
    ),
    "the memory of Macs": ("96, 128, 192", ["fit/machine.py"]),
    "8B's hidden size": (r"4096, 32, 8, 12_?288", ["hub/releases.py"]),
    "how a JSON file of a model is refused": ("expected=.a JSON object", ["files.py"]),
    "a failing hub": ("the hub answered with an error", ["hub/errors.py"]),
    "how a safetensors header is written": (
        r"\"data_offsets\": ",
        ["checkpoint/headers.py", "checkpoint/large_pages.py"],
    ),
    "bytes spelled as GB": (r"/ 1e[69]:[^}]*\} [MG]B", ["errors.py"]),
    "tokens spelled as 3.2k": (r"def short\(tokens|\}k\"", ["cli/terminal/numbers.py"]),
    "parameters spelled as 8.2 B": (r"\(\"B\", 1e9\)", ["cli/terminal/numbers.py"]),
    "the chat's keys": ("answer now; stop", ["cli/chat/keys.py"]),
    "when a thought is shown": (r"Literal\[\"always\", \"live\"", ["cli/settings/settings.py"]),
    "no network": ("HF_HUB_OFFLINE.,", ["hub/errors.py"]),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_stands_in_one_place(fact: str) -> None:
    pattern, expected = FACTS[fact]
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if re.search(pattern, path.read_text("utf-8"))
    ]
    assert found and set(found) <= set(expected)


def test_no_other_file_lists_the_families_that_never_think() -> None:
    lists = [path.name for path in MODULES if '"instruct", "coder")' in path.read_text("utf-8")]
    assert not lists


def test_documents_that_texts_name_are_there() -> None:
    named = {
        (path.name, document)
        for path in MODULES
        for document in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", path.read_text("utf-8"))
    }
    assert named
    assert [one for one in named if not (PACKAGE.parent / one[1]).is_file()] == []

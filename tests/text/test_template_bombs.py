"""No template takes long or much memory, whatever multiplies in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import TemplateError
from qwen3_mlx.text import ChatTemplate
from qwen3_mlx.text.sandbox import SandboxedTemplate
from tests.text.template_bombs import BOMBS, COMPILING, LONG, light

ROOT = Path(__file__).parents[2]
SECONDS, MEGABYTES = 2.0, 200.0


def test_bombs() -> None:
    """All of them in one child, whose highest memory therefore holds for each."""
    command = [sys.executable, "-m", "tests.text.template_bombs"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == len(BOMBS), (run.returncode, rows[-1:], run.stderr[-500:])
    harmless = [BOMBS.index(source) for source in HARMLESS]
    for number, outcome, seconds, megabytes in rows:
        source = BOMBS[number][:200]
        assert seconds <= SECONDS, (source, seconds, outcome)
        assert megabytes <= MEGABYTES, (source, megabytes, outcome)
        assert number in harmless or "template" in outcome, (source, outcome)


# Big, but not too big: (10**10)**10, and long sources that say little.
HARMLESS = ["{{ 10**10**10 }}", COMPILING[5], COMPILING[8]]


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a'.encode() }}",
        "{{ 'a'.translate({97: 'b'}) }}",
        "{{ (1).to_bytes(2) }}",
        "{{ dict.fromkeys([1]) }}",
        "{{ ('a'|safe).striptags() }}",
    ],
)
def test_methods_that_no_template_needs(source: str) -> None:
    outcome, _ = light(source)
    assert "breaks the rules of its sandbox: got line 1: SecurityError" in outcome


ORDINARY = [
    ("{{ 'a' * 3 + 'b' ~ 1 ~ none }}", "aaab1None"),
    ("{{ [1] * 2 + [3] }}{{ (1, 2) + (3,) }}", "[1, 1, 3](1, 2, 3)"),
    ("{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 8 }}{{ 7 / 2 }}{{ 3 - 5 }}{{ -1 }}", "3325" + "63.5-2-1"),
    ("{{ '%s has %d' % ('a', 2) }}{{ '%5.1f'|format(2.25) }}", "a has 2  2.2"),
    ("{{ '{} {x:>3}'.format(1, x=2) }}{{ '{a}'.format_map({'a': 1}) }}", "1   21"),
    ("{{ 'a,b'.split(',')|join('-') }}{{ 'a'.join(['x', 'y']) }}", "a-bxay"),
    ("{{ 'abcb'.replace('b', 'xx', 1) }}{{ 'aa'|replace('a', 'b', 1) }}", "axxcbba"),
    ("{{ 'a'.center(3) }}|{{ 'a'|center(3) }}|{{ '7'.zfill(3) }}", " a | a |007"),
    ("{{ 'a\nb'|indent(2) }}{{ 'a\nb'|indent(width='> ', first=true) }}", "a\n  b> a\n> b"),
    ("{{ [3, 1, 2]|sort|join }}{{ [1, 1, 2]|unique|join }}{{ [1, 2]|sum }}", "123123"),
    ("{{ [[1], [2]]|sum(start=[]) }}{{ [1, 5]|max }}{{ 1.26|round(1) }}", "[1, 2]51.3"),
    ("{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ [1, 2, 3][:2] }}", "bccba[1, 2]"),
    ("{{ {1: 'a', (2, 3): 'b'}[(2, 3)] }}{{ {'a': 1}.get('a') }}", "b1"),
    ("{{ [1, 2]|map('string')|join(',') }}{{ [1, 2]|select('odd')|list }}", "1,2[1]"),
    ("{{ [{'a': 1}]|map(attribute='a')|first }}{{ [1, 2, 3]|batch(2)|list }}", "1[[1, 2], [3]]"),
    ("{{ 'b' in 'abc' and 2 in [1, 2] and 1 < 2 <= 2 and 'x' != 'y' }}", "True"),
    ("{% for k, v in {'a': 1}.items() %}{{ loop.index }}{{ k }}{{ v }}{% endfor %}", "1a1"),
    ("{% for k, v in {'a': 1}|items %}{{ loop.last }}{{ k }}{% endfor %}", "Truea"),
    ("{% for x in [1, 2, 3] if x != 2 %}{{ loop.length }}{{ x }}{% endfor %}", "2123"),
    ("{% for x in [1, 2]|map('abs') %}{{ loop.revindex }}{{ x }}{% endfor %}", "2112"),
    ("{% for x in none_here %}{{ x }}{% else %}none{% endfor %}", "none"),
    (
        "{% for x in [{'c': [{}]}] recursive %}<{{ loop.depth }}"
        "{{ loop(x.c) if x.c }}>{% endfor %}",
        "<1<2>>",
    ),
    (
        "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}"
        "{% call m(1) %}c{% endcall %}",
        "12c",
    ),
    ("{% set x %}a{{ 1 }}{% endset %}{{ x|upper }}{% filter upper %}b{% endfilter %}", "A1B"),
    (
        "{% set n = namespace(i=0) %}{% for x in 'ab' %}{% set n.i = n.i + 1 %}"
        "{% endfor %}{{ n.i }}",
        "2",
    ),
    ("{% block b %}in{% endblock %}{{ self.b() }}", "inin"),
    ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ joiner(',')() }}", "ab"),
    ("{{ ' x '|trim }}{{ 'xax'|trim('x') }}{{ ' a\t'.strip() }}{{ 'ab'.rstrip('b') }}", "xaaa"),
    (
        "{{ 'Ab'.startswith(('A', 'x')) }}{{ 'ab'.find('b') }}{{ 'a b c'.rsplit(' ', 1) }}",
        "True1['a b', 'c']",
    ),
    (
        "{{ '<'|e }}{{ 'a'|string }}{{ 'true'|title }}{{ '12'|int + 1 }}"
        "{{ 'abcdef'|truncate(4, true, '', 0) }}",
        "&lt;aTrue13abcd",
    ),
]


@pytest.mark.parametrize(("source", "text"), ORDINARY)
def test_ordinary_templates_are_as_they_were(source: str, text: str) -> None:
    assert SandboxedTemplate(source).render({}) == text


def test_a_long_conversation_renders(goldens: list[ChatTemplate]) -> None:
    """2,000 turns, and one message of 2 MB: what people bring counts in a template's favour."""
    turns: list[dict[str, Any]] = [
        {"role": role, "content": "word " * 10}
        for _ in range(2000)
        for role in ("user", "assistant")
    ]
    big = [{"role": "user", "content": "wörd " * 400_000}]
    answered = [*big, {"role": "assistant", "content": "<think>\na\n</think>\n\n" + "b" * 10**6}]
    for template in goldens:
        assert len(template.render([*turns, *big])) > 2_000_000
        assert len(template.render([*answered, *big])) > 4_000_000


@pytest.mark.parametrize("test", ["s == 'user'", "'user' == s", "s != 'user'", "s < 'user'"])
def test_comparing_a_long_text_with_a_constant_costs_next_to_nothing(test: str) -> None:
    """Templates ask ``message.role == 'user'`` of every message, and of its content too."""
    loop = LONG + f"{{% for i in range(9999) %}}{{{{ {test} }}}}{{% endfor %}}"
    assert len(SandboxedTemplate(loop).render({})) > 9999


def test_allowances_of_renderings_are_apart() -> None:
    """Each rendering has the whole allowance, one inside another's time included."""
    template = SandboxedTemplate("{{ ('a' * 6000000)|length }}")
    for _ in range(3):
        assert template.render({}) == "6000000"
    with pytest.raises(TemplateError, match="more memory than a conversation needs\nhint: "):
        SandboxedTemplate("{{ ('a' * 6000000 + 'a' * 6000000)|length }}").render({})


@pytest.fixture(scope="module")
def goldens() -> list[ChatTemplate]:
    paths = sorted((ROOT / "tests/golden").glob("*_template.jinja"))
    assert len(paths) == 5
    return [ChatTemplate(path.read_text("utf-8")) for path in paths]

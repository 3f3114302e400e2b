"""How much a template may make: what fits into its allowance by a hundredth, and what doesn't.

A rendering may make ten million characters and references, and visit half a million values or copy
16 million characters. Each number below is the largest N, to a hundredth: it follows from what the
operation may make at most of its operand, which is charged before it runs.
"""

from __future__ import annotations

import time

import pytest

from qwen3_mlx.errors import TemplateError
from qwen3_mlx.text.sandbox import SandboxedTemplate

MOST = {
    # operators
    "{{ ('a' * N)|length }}": 10_000_000,
    "{{ (N * 'a')|length }}": 10_000_000,
    "{{ ([0] * N)|length }}": 10_000_000,
    "{% set a = 'a' * N %}{% set b = a + a %}": 3_333_000,
    "{% set a = [1] * N %}{% set b = a + a %}": 3_333_000,
    "{% set a = 'a' * N %}{% set b = a ~ a %}": 762_000,
    "{% set a = ('a' * N)[1:] %}": 5_000_000,
    "{{ 'a' * N }}": 5_000_000,  # made, and printed
    "{{ [1] * N }}": 124_000,
    "{% set a = '%s' % ('a' * N) %}": 769_000,  # twice, six characters for one: it may be escaped
    "{% set a = ('%%' * N) % () %}": 4_760,  # each % may be a field of 1,000 characters
    # texts
    "{% set a = ('a' * N)|upper %}": 1_428_000,  # six characters for one
    "{% set a = ('a' * N).upper() %}": 1_428_000,
    "{% set a = ('a' * N)|string %}": 2_668_000,
    "{% set a = ('a' * N).replace('a', 'bb') %}": 2_500_000,
    "{% set a = ('a' * N)|replace('a', 'bb') %}": 2_500_000,
    "{% set a = '{}'.format('a' * N) %}": 762_000,
    "{% set a = '%s'|format('a' * N) %}": 769_000,
    "{% set a = ('a' * N).strip('b') %}": 2_668_000,
    "{% set a = ('a' * N)|trim %}": 2_668_000,
    "{% set a = ('a' * N).find('b' * 1600) %}": 98_000,
    "{% set a = ('a' * N)|center(1000) %}": 2_667_000,
    "{% set a = ('a\\n' * N)|indent(10) %}": 714_300,
    "{% set a = ('a\\n' * N)|indent('12') %}": 1_143_000,
    "{% set a = ('\t' * N).expandtabs(10) %}": 833_300,
    "{% set a = ('a' * N)|tojson %}": 1_250_000,
    # texts to lists, and back
    "{% set a = ('a' * N)|list %}": 588_200,  # 16 bytes for each character
    "{% set a = ('a' * N).split('b') %}": 2_668_000,
    "{% set a = ('a' * N).split('a') %}": 151_500,  # 64 bytes for each piece
    "{% set a = ('a' * N).split() %}": 294_100,  # at most every second character ends a piece
    "{% set a = ('a' * N).splitlines() %}": 294_100,
    "{% set a = ([1] * N)|join('12345678') %}": 94_700,
    "{% set a = '12345678'.join(['a'] * N) %}": 158_700,
    # lists
    "{% set a = ([1] * N)|string %}": 99_400,
    "{% set a = ([1] * N)|join %}": 99_400,
    "{% set a = (['12345678'] * N)|map('d')|join %}": 52_300,  # what a filter passes on counts
    "{% set a = ([1] * N)|sort %}": 38_900,
    "{% set a = ([1] * N)|sum %}": 2_235,  # each step copies, if they are lists
    "{% set a = ([1] * N)|tojson %}": 88_500,
    "{% set a = ([1] * N)|tojson(indent=10) %}": 19_490,
    "{% set a = ([1] * N)|tojson(indent='12') %}": 51_800,
    # loops and calls
    "{% for i in 'a' * N %}{% endfor %}": 10_000_000,
    "{% for i in ('a' * N)|map('upper') %}{% endfor %}": 118_000,
    "{% for i in range(N) %}{% endfor %}": 100_000,
    "{% macro m() %}{% endmacro %}{% for i in range(N) %}{{ m() }}{% endfor %}": 93_800,
}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of processor time at each look, the last for good: a slow machine is as any."""
    seconds = [0.0]
    monkeypatch.setattr(
        time, "thread_time", lambda: seconds.pop(0) if len(seconds) > 1 else seconds[0]
    )
    return seconds


def renders(source: str, size: int) -> bool:
    try:
        SandboxedTemplate(source.replace("N", str(size))).render({})
    except TemplateError as error:
        assert "breaks the rules of its sandbox" in str(error)
        return False
    return True


@pytest.mark.parametrize("source", MOST)
def test_what_a_template_may_make(source: str) -> None:
    most = MOST[source]
    assert renders(source, most - most // 100)
    assert not renders(source, most + most // 100)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a'|center(N) }}",
        "{{ 'a'|center(width=N) }}",
        "{{ 'a'.center(N) }}",
        "{{ '7'.zfill(N) }}",
        "{{ '\t'.expandtabs(N) }}",
        "{{ 'a'|indent(N) }}",
        "{{ 'a'|indent(width=N) }}",
        "{{ [1]|tojson(indent=N) }}",
        "{{ [1]|tojson(false, N) }}",
        "{{ [1]|batch(N)|list }}",
        "{{ [1]|slice(N)|list }}",
    ],
)
def test_no_width_is_more_than_a_thousand(source: str) -> None:
    assert renders(source, 1000) and not renders(source, 1001)


@pytest.mark.parametrize("layout", ["%{}d", "%.{}f", "%-{}.1f"])
def test_no_field_of_a_format_has_four_digits(layout: str) -> None:
    for source in (f"{{{{ '{layout}' % 1 }}}}", f"{{{{ '{layout}'|format(1) }}}}"):
        assert renders(source.replace("{}", "N"), 999) and not renders(
            source.replace("{}", "N"), 1000
        )
    assert renders("{{ '{:N}'.format(1) }}", 999) and not renders("{{ '{:N}'.format(1) }}", 1000)


def test_numbers_have_1024_bits_and_are_rounded_to_100_digits() -> None:
    assert renders("{{ 2 ** N }}", 1023) and not renders("{{ 2 ** N }}", 1024)
    # operands of 2,048 bits together, and of one more
    assert renders("{{ 2 ** 1023 * 2 ** 1023 > 1 }}", 0)
    assert not renders("{{ 2 ** 1023 * 2 * 2 ** 1023 > 1 }}", 0)
    assert renders("{{ 1.5|round(N) }}", 100) and not renders("{{ 1.5|round(N) }}", 101)
    assert renders("{{ 15|round(-N) }}", 100) and not renders("{{ 15|round(-N) }}", 101)


def test_a_conversation_adds_to_the_allowance_by_its_size() -> None:
    """Each of its characters allows 30 more, and 200 more visited."""
    said = {"content": "a" * 100_000}
    many = SandboxedTemplate("{{ ('a' * n)|length }}")
    assert many.render(said | {"n": 12_990_000}) == "12990000"
    with pytest.raises(TemplateError, match="more memory than a conversation needs"):
        many.render(said | {"n": 13_020_000})
    search = SandboxedTemplate("{% for i in range(n) %}{{ 'b' in content }}{% endfor %}")
    assert search.render(said | {"n": 239}) == "False" * 239
    with pytest.raises(TemplateError, match="more work than a conversation needs"):
        search.render(said | {"n": 241})


def test_a_rendering_takes_a_second_and_a_half_where_it_works_at_all(clock: list[float]) -> None:
    """The clock is looked at only once in a million characters."""
    for size, seconds, fits in (
        (990_000, 9, True),
        (1_010_000, 1.4, True),
        (1_010_000, 1.6, False),
    ):
        clock[:] = [10.0, 10.0 + seconds]
        assert renders("{{ ('a' * N)|length }}", size) is fits


@pytest.mark.parametrize("taken", ["s * 0", "-1 * s", "s[0]", "s|length", "s|first", "s is string"])
def test_what_makes_nothing_of_a_long_text_costs_nothing_of_it(taken: str) -> None:
    loop = f"{{% set s = 'a' * 2000000 %}}{{% for i in range(99) %}}{{{{ {taken} }}}}{{% endfor %}}"
    assert renders(loop, 0)

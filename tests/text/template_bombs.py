"""Templates made to take time or memory, by what multiplies in them; none may get far.

As a program it renders them, or those of the numbers given, and prints what each took.
"""

from __future__ import annotations

import json
import resource
import sys
import time

DOUBLED = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = X %}{% endfor %}"
NESTED = (
    "{% set n = namespace(a=['x'], b=['x']) %}{% for i in range(60) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
)
TUPLES = (
    "{% set n = namespace(t=(1,)) %}{% for i in range(60) %}{% set n.t = (n.t, n.t) %}{% endfor %}"
)
KEPT = (
    "{% set n = namespace(x=none) %}{% for i in range(1000) %}{% for j in 'a' * 1000 %}"
    "{% for k in 'a' * 1000 %}{% set n.x = [n.x, KEPT] %}{% endfor %}{% endfor %}{% endfor %}"
)
LONG = "{% set s = 'ab' * 2000000 %}"
TWO_LONG = LONG + LONG.replace("set s", "set t")

OPERATORS = [
    "{{ ('a' * 10**10)|length }}",
    "{{ (10**10 * 'a')|length }}",
    "{{ messages * 10**9 }}",
    "{{ ([0] * 10**9)|length }}",
    "{{ ((0,) * 10**10)|length }}",
    "{{ 10**10**10 }}",
    "{{ (2**1000) ** 1000000 }}",
    "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '%*d' % (10**10, 1) }}",
    "{{ '%.10000000000f' % 1.5 }}",
    "{{ '%(a)s' * 100000 % {'a': 'x' * 100000} }}",
    DOUBLED.replace("X", "ns.x ~ ns.x"),
    DOUBLED.replace("X", "ns.x + ns.x"),
    DOUBLED.replace("X", "[ns.x, ns.x]|join"),
    DOUBLED.replace("X", "ns.x.replace('a', 'aab')"),
    DOUBLED.replace("X", "ns.x|replace('a', 'aab')"),
    DOUBLED.replace("X", "'%s%s' % (ns.x, ns.x)"),
    DOUBLED.replace("X", "'{0}{0}'.format(ns.x)"),
    DOUBLED.replace("X", "'%s%s'|format(ns.x, ns.x)"),
    DOUBLED.replace("X", "ns.x|list + ns.x|list"),
    DOUBLED.replace("{% set ns.x = X %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    DOUBLED.replace("X", "ns.x|e + ns.x|e") + "{{ ns.x }}",
    "{% for i in range(99999) %}{% for c in 'a' * 90000 %}{{ s }}{% endfor %}{% endfor %}",
]
FILTERS = [
    "{{ [1]|batch(10**9, 'x')|list|length }}",
    "{{ [1]|slice(10**9)|list|length }}",
    "{{ 'a'|center(10**10)|length }}",
    "{{ 'a\na'|indent(10**10)|length }}",
    "{{ ('a\n' * 100000)|indent('b' * 100000)|length }}",
    "{{ [[1]]|tojson(indent=10**10) }}",
    "{{ ([[1]] * 1000)|tojson(indent='a' * 1000000) }}",
    "{{ ([1] * 1000)|tojson(separators=('a' * 1000000, 'b')) }}",
    "{{ 1.5|round(10**10, 'ceil') }}",
    "{{ ([[1] * 1000] * 100000)|sum(start=[])|length }}",
    "{{ (['a' * 1000000] * 1000000)|join }}",
    "{{ (['a' * 1000000] * 900)|map('d')|join|length }}",
    "{{ ('a' * 1000000)|join('b' * 1000000)|length }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**10) }}",
    "{{ '{a[0]:{b}}'.format(a=[1], b=10**10) }}",
    "{{ '{:10000000000}'|format(1) }}{{ '%9999999999d'|format(1) }}",
    "{{ ('ab,' * 3000000).split(',')|length }}",
    LONG + "{{ s|list|length }}{{ s|list|length }}",
    LONG + "{{ (s|list|sort)|length }}{{ s|list|unique|list|length }}",
    "{{ ['a' * 9999999, 'a' * 9999999]|map('upper')|map('e')|map('list')|list|length }}",
    "{{ (range(90000)|list * 100)|map('string')|map('center', 900)|list|length }}",
    "{{ range(99999)|list|map('tojson', indent=900)|join('x' * 9999)|length }}",
    "{{ range(9999)|select('in', range(99999)|list)|list|length }}"
    "{{ (range(9999)|list * 9)|select('in', range(99999)|list * 9)|list|length }}",
]
METHODS = [
    "{{ 'a'.center(10**10)|length }}",
    "{{ 'a'.ljust(10**10)|length }}",
    "{{ 'a'.rjust(width)|length }}".replace("width", "10**10"),
    "{{ '1'.zfill(10**10)|length }}",
    "{{ '\t'.expandtabs(10**10)|length }}",
    "{{ ('\t' * 1000000).expandtabs(1000)|length }}",
    "{{ ('a'|safe).center(10**10)|length }}",
    "{{ ('a' * 100000).replace('', 'b' * 100000)|length }}",
    "{{ ('a' * 100000).join('b' * 100000)|length }}",
    "{{ 'a'.translate({97: 'b' * 1000000}) }}",
    "{{ (1).to_bytes(10**10, 'big')|length }}",
    "{{ dict.fromkeys(range(99999), 'a') }}{{ ('a'.encode() * 10**10)|length }}",
    LONG + "{{ s.rfind('b' + 'a' * 1000000) }}{{ s.rsplit('b' + 'a' * 1000000)|length }}",
    LONG + "{{ s.strip('b' + 'c' * 1000000 + 'a') }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ strftime_now('%c' * 1000000) }}",
]
LOOPS = [
    "{% for a in 'a' * 3000 %}{% for b in 'a' * 3000 %}{% for c in 'a' * 3000 %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m(n) %}{% if n %}{% call m(n - 1) %}{{ m(n - 1) }}{% endcall %}"
    "{{ caller() if caller }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}"
    "{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "{% block b %}{% set c = cycler(1) %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "{% for x in ('a' * 90000)|map('upper') %}{% for y in ('a' * 90000)|map('upper') %}"
    "{% endfor %}{% endfor %}",
    "{% for x in ('a' * 90000)|list if x in 'b' * 9000 %}{% endfor %}" * 20,
    "{% for x in 'a' * 99999 %}" + "{% if x == 'b' %}{% endif %}" * 5000 + "{% endfor %}",
    *(  # a chain that begins with a constant compares the long texts all the same
        TWO_LONG + f"{{% for i in 'a' * 9999 %}}{{{{ {test} }}}}{{% endfor %}}"
        for test in ("s == t", "'c' != s == t", "s != 'c' != t == s")
    ),
    LONG + "{% for i in range(9999) %}{% if 'c' in s %}{% endif %}{% endfor %}",
    LONG + "{% for i in range(9999) %}{% set t = s[1:] %}{% endfor %}",
    NESTED + "{{ n.a == n.b }}",
    NESTED + "{{ n.a is eq n.b }}{{ n.a in [n.b] }}",
    NESTED + "{{ n.a }}",
    NESTED + "{{ n.a|string }}",
    NESTED + "{{ n.a ~ 'x' }}",
    NESTED + "{{ n.a|tojson }}",
    NESTED + "{{ n }}",
    NESTED + "{{ n|string }}{{ [n]|join }}",
    NESTED + "{{ [n.a, n.b]|sort }}",
    NESTED + "{{ [n.a, n.b]|max }}",
    NESTED + "{{ [n.a].index(n.b) }}{{ {'a': n.a}.items() }}",
    NESTED + "{% for x in [n.a, n.b] %}{{ loop.changed(x) }}{% endfor %}",
    TUPLES + "{{ {n.t: 1}|length }}",
    TUPLES + "{{ {}[n.t] }}{{ {}.get(n.t) }}",
    TUPLES + "{{ [n.t]|unique|list|length }}{{ dict([(n.t, 1)])|length }}",
    *(
        KEPT.replace("KEPT", one)
        for one in ("{}", "namespace()", "cycler(1)", "[i]|map('e')", "[]")
    ),
    "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = ns.x + ['a' * 9000] %}"
    "{% endfor %}",
]
COMPILING = [
    "{{ ('a' * (2 * 10**9))|length }}",
    "{% autoescape 'a' * 10**10 %}{% endautoescape %}",
    "{% set x = 'a'|center(10**10) %}{{ 10**10**8 }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ 1" + " + 1" * 14000 + " }}",
    "{{ [" + "1," * 29000 + "] }}",
    "{{ " + "not " * 14000 + "x }}",
    "{% if a %}" * 2500 + "{% endif %}" * 2500,
    "a{{ b }}" * 7400,
    "{%- " * 14000,
    "{#" * 29000,
    "{{ a" + ".a" * 29000 + " }}",
    "x" * 10**8,
]
BOMBS = [*OPERATORS, *FILTERS, *METHODS, *LOOPS, *COMPILING]


def light(source: str) -> tuple[str, float]:
    """Render a bomb: the error, or how long the text is, and the seconds."""
    from qwen3_mlx.errors import TemplateError
    from qwen3_mlx.text.sandbox import SandboxedTemplate

    messages = [{"role": "user", "content": "hi"}]
    start = time.thread_time()
    try:
        text = SandboxedTemplate(source).render({"messages": messages, "tools": None})
        outcome = f"{len(text)} characters"
    except TemplateError as error:
        outcome = str(error)[:200]
    return outcome, time.thread_time() - start


def peak() -> float:
    """The most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if MAC else 2**10)


MAC = sys.platform == "darwin"


def main() -> None:
    """Render them all, or those of the numbers given; a line of JSON each."""
    light("{{ messages[0].content }}")  # what any template needs
    before = peak()
    if not MAC:  # where such a limit is only written down
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    for number in map(int, sys.argv[1:]) if sys.argv[1:] else range(len(BOMBS)):
        outcome, seconds = light(BOMBS[number])
        print(json.dumps([number, outcome, seconds, peak() - before]), flush=True)


if __name__ == "__main__":
    main()

import copy
import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import ConfigError, TemplateError
from qwen3_mlx.events import ToolCall
from qwen3_mlx.text import ChatTemplate, parse_tool_call
from tests.golden.conversations import conversations, fingerprint

GOLDEN = Path(__file__).parents[1] / "golden"
USER = [{"role": "user", "content": "hi"}]

INSTRUCT = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
THINKING = INSTRUCT.replace("assistant\\n'", "assistant\\n<think>\\n'")
HYBRID = (
    INSTRUCT + "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
CODER = (
    """
{%- if tools %}
    {%- for tool in tools %}
        {{- '<function>' ~ tool.function.name ~ '\\n' }}
        {%- for name, field in tool.function.parameters.properties | items %}
            {{- name ~ ': ' ~ field.type ~ '\\n' }}
        {%- endfor %}
    {%- endfor %}
    {{- '<tool_call>\\n<function=name>\\n<parameter=key>\\nvalue\\n</parameter>\\n</function>\\n' }}
{%- endif %}"""
    + INSTRUCT
)
NO_TOOLS = "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}" + INSTRUCT


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((GOLDEN / "templates.json").read_text("utf-8"))
    return record


@pytest.fixture(scope="session")
def cases(golden: dict[str, Any]) -> list[dict[str, Any]]:
    cases = conversations(golden["seed"], golden["count"])
    assert fingerprint(cases) == golden["conversations"], "the generator changed: make anew"
    return cases


@pytest.fixture(scope="session")
def real(qwen3_files: Path) -> ChatTemplate:
    return ChatTemplate.from_dir(qwen3_files)


def check(template: ChatTemplate, record: dict[str, Any], cases: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(cases)
    hashes = [fingerprint(template.render(**case)) for case in cases]
    wrong = [
        number
        for number, (got, want) in enumerate(zip(hashes, record["renderings"], strict=True))
        if not got.startswith(want)
    ]
    assert wrong == [], "compare with make_templates.py --show"
    assert len(set(hashes)) > 0.9 * len(cases)
    assert cases == before


@pytest.mark.parametrize(
    "name", ["hybrid", "refreshed_2504", "thinking_2507", "instruct_2507", "coder"]
)
def test_templates_render_as_in_transformers(
    name: str, golden: dict[str, Any], cases: list[dict[str, Any]]
) -> None:
    source = (GOLDEN / f"{name}_template.jinja").read_text("utf-8")
    assert fingerprint(source) == golden["templates"][name]["sha256"]
    template = ChatTemplate(source, {"eos_token": "<|im_end|>"})
    check(template, golden["templates"][name], cases)
    families = {"refreshed_2504": "hybrid", "thinking_2507": "thinking", "coder": "coder"}
    assert template.family == families.get(name, "hybrid" if name == "hybrid" else "instruct")


def test_real_template_renders_as_in_transformers(
    golden: dict[str, Any], cases: list[dict[str, Any]], real: ChatTemplate, qwen3_files: Path
) -> None:
    config = json.loads((qwen3_files / "tokenizer_config.json").read_text("utf-8"))
    assert fingerprint(config["chat_template"]) == golden["templates"]["qwen3"]["sha256"]
    check(real, golden["templates"]["qwen3"], cases)


def test_the_conversations_hold_everything(cases: list[dict[str, Any]]) -> None:
    assert len(cases) >= 300
    messages = [message for case in cases for message in case["messages"]]
    for wanted in ("reasoning_content", "reasoning", "tool_calls"):
        assert sum(bool(message.get(wanted)) for message in messages) > 50
    assert sum("</think>" in message["content"] for message in messages) > 50
    assert sum(message["role"] == "tool" for message in messages) > 200
    assert sum(bool(case["tools"]) for case in cases) > 50
    assert {case["thinking"] for case in cases} == {None, True, False}
    ends = {(case["messages"][-1]["role"], case["add_generation_prompt"]) for case in cases}
    assert {("assistant", False), ("user", True), ("tool", True)} <= ends


@pytest.mark.parametrize(
    ("source", "family"),
    [
        (INSTRUCT, "instruct"),
        (THINKING, "thinking"),
        (HYBRID, "hybrid"),
        (CODER, "coder"),
        (NO_TOOLS, "instruct"),
    ],
)
def test_family_is_found_by_behaviour(source: str, family: str) -> None:
    assert ChatTemplate(source).family == family


def test_a_template_that_thinks_only_when_told() -> None:
    off = INSTRUCT + "{% if not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    template = ChatTemplate(off)
    assert (template.family, template.thinks_by_default) == ("hybrid", False)
    assert ChatTemplate(HYBRID).thinks_by_default
    assert ChatTemplate(THINKING).thinks_by_default
    assert not ChatTemplate(CODER).thinks_by_default


def test_a_template_that_renders_nothing() -> None:
    with pytest.raises(TemplateError, match="renders nothing\nhint: "):
        ChatTemplate("{% if false %}text{% endif %}\n").render(USER)


def test_family_of_the_real_template(real: ChatTemplate) -> None:
    assert real.family == "hybrid"


def test_prompts_of_each_family() -> None:
    head = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert ChatTemplate(INSTRUCT).render(USER) == head
    assert ChatTemplate(INSTRUCT).render(USER, thinking=False) == head
    assert ChatTemplate(THINKING).render(USER) == head + "<think>\n"
    assert ChatTemplate(HYBRID).render(USER, thinking=True) == head
    assert ChatTemplate(HYBRID).render(USER, thinking=False) == head + "<think>\n\n</think>\n\n"
    ended = ChatTemplate(HYBRID).render(USER, add_generation_prompt=False)
    assert ended == "<|im_start|>user\nhi<|im_end|>\n"
    tool = {"function": {"name": "f", "parameters": {"properties": {"温度": {"type": "integer"}}}}}
    assert (
        ChatTemplate(CODER).render(USER, tools=[tool]).startswith("<function>f\n温度: integer\n<")
    )


def test_a_flag_that_is_none_is_not_passed() -> None:
    template = ChatTemplate("{{ enable_thinking is defined }}")
    assert [template.render(USER, thinking=flag) for flag in (None, True)] == ["False", "True"]


def test_tool_calls_survive_the_round_trip(real: ChatTemplate) -> None:
    call = ToolCall("搜索", {"q": '5 < 6 & "x"', "n": [1, 2.5, None, {"é": True}]})
    messages = [*USER, {"role": "assistant", "content": None, "tool_calls": (call,)}]
    text = real.render(messages, add_generation_prompt=False)
    assert parse_tool_call(text.split("<tool_call>")[1].split("</tool_call>")[0]) == call


def test_the_dialect() -> None:
    def render(source: str) -> str:
        return ChatTemplate(source, {"eos_token": "</s>"}).render(USER)

    assert render("{{ {'b': '<é>', 'a': 1} | tojson }}") == '{"b": "<é>", "a": 1}'
    assert render("{{ {'a': [1]} | tojson(indent=2) }}") == '{\n  "a": [\n    1\n  ]\n}'
    assert render("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}") == '{"a": 2, "b": 1}'
    assert render("{{ ['é'] | tojson(ensure_ascii=true) }}") == '["\\u00e9"]'
    assert render("{{ [1, 2] | tojson(separators=(',', ':')) }}") == "[1,2]"
    assert render("{{ strftime_now('%Y') | int > 2024 }}") == "True"
    assert render("{{ eos_token }}{{ bos_token }}") == "</s>"
    assert (
        render("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "012"
    )
    assert render("a{% generation %}b{% set x = 1 %}{% endgeneration %}{{ x }}c") == "abc"
    assert render("a\n  {% if true %}\n  b\n  {% endif %}\nc") == "a\n  b\nc"


def test_what_other_programs_write_is_understood() -> None:
    source = "{% for m in messages %}[{{ m.content }}|{{ m.reasoning_content }}]{% endfor %}"

    class Role(enum.StrEnum):
        USER = "user"

    messages: list[dict[str, Any]] = [
        {"role": Role.USER, "content": "q", "name": None},
        {"role": "assistant", "content": None, "reasoning_content": None, "reasoning": "r"},
        {"role": "assistant", "thinking": "t", "reasoning": "r"},
    ]
    assert ChatTemplate(source).render(messages) == "[q|][|r][|t]"
    assert ChatTemplate("[{{ messages[0].content }}]").render([{"role": "user"}]) == "[]"


def test_a_template_sees_plain_values_only() -> None:
    class Text(str):
        def delete(self) -> str:
            return "done"

    template = ChatTemplate("{{ messages[0].content.delete() }}")
    with pytest.raises(TemplateError, match="'str object' has no attribute 'delete'"):
        template.render([{"role": "user", "content": Text("file")}])


FORBIDDEN = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ strftime_now.__globals__ }}",
    "{{ self.__init__ }}",
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(10**30) %}{% endfor %}",
    "{% for i in range(50000) %}{% for j in range(50000) %}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("source", FORBIDDEN)
def test_the_sandbox_holds(source: str) -> None:
    messages = copy.deepcopy(USER)
    with pytest.raises(TemplateError, match="breaks the rules of its sandbox") as caught:
        ChatTemplate(source).render(messages)
    assert caught.value.hint
    assert caught.value.__suppress_context__  # no traceback through jinja2 for the user
    assert messages == USER


BROKEN = [
    ("{% if %}", "syntax error: got line 1"),
    ("\n\n{% for x in y %}", "syntax error: got line 3"),
    ("{{ x | nothing }}", "No filter named 'nothing'"),
    ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "chat template"),
    ("\n{{ messages[7].content }}", "line 2: UndefinedError"),
    ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ("{{ messages + 1 }}", "TypeError"),
    ("{% include 'other' %}", "TypeError"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("{{ raise_exception('roles must alternate') }}", "refuses .* got roles must alternate"),
]


@pytest.mark.parametrize(("source", "message"), BROKEN)
def test_broken_templates(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=f"(?s){message}.*\nhint: ") as caught:
        ChatTemplate(source).render(USER)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "at least one message"),
        ("hi", "at least one message"),
        (["hi"], "a dict whose role is one of system, user, assistant, tool"),
        ([{"content": "hi"}], "a dict whose role"),
        ([{"role": "asistant", "content": "hi"}], "got {'role': 'asistant'"),
        ([{"role": "user", "content": Path("x")}], "got PosixPath"),
        ([{"role": "user", "content": b"hi"}], "got bytes"),
    ],
)
def test_messages_that_are_none(messages: Any, expected: str) -> None:
    with pytest.raises(TemplateError, match=expected):
        ChatTemplate(INSTRUCT).render(messages)


def test_values_that_contain_themselves() -> None:
    nested: dict[str, Any] = {"role": "user", "content": "hi"}
    nested["again"] = nested
    with pytest.raises(TemplateError, match="nested too deeply"):
        ChatTemplate(INSTRUCT).render([nested])


def write(path: Path, config: object = None, **files: str) -> Path:
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    for name, text in files.items():
        file = path / f"{name.replace('__', '/')}.jinja"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    return path


NAMED = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
LAYOUTS: list[tuple[Callable[[Path], Path], str, str]] = [
    (lambda path: write(path, {"chat_template": "one"}), "one", "one"),
    (lambda path: write(path, {"chat_template": NAMED}), "D", "T"),
    (lambda path: write(path, {"chat_template": NAMED[:1]}), "D", "D"),
    (lambda path: write(path, {"chat_template": "old"}, chat_template="new"), "new", "new"),
    (lambda path: write(path, chat_template="new"), "new", "new"),
    (
        lambda path: write(
            path,
            {"chat_template": NAMED},
            chat_template="n",
            additional_chat_templates__tool_use="t",
        ),
        "n",
        "t",
    ),
]


@pytest.mark.parametrize(("layout", "plain", "with_tools"), LAYOUTS)
def test_where_templates_are_found(
    tmp_path: Path, layout: Callable[[Path], Path], plain: str, with_tools: str
) -> None:
    template = ChatTemplate.from_dir(layout(tmp_path))
    assert template.render(USER) == plain
    assert template.render(USER, tools=[{"name": "f"}]) == with_tools


def test_special_tokens_of_tokenizer_config(tmp_path: Path) -> None:
    config = {
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ add_bos_token }}",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": {"content": "<|endoftext|>", "special": True},
        "add_bos_token": True,
    }
    assert ChatTemplate.from_dir(write(tmp_path, config)).render(USER) == "<|im_end|><|endoftext|>"


def test_no_template(tmp_path: Path) -> None:
    with pytest.raises(
        TemplateError, match=r"(?s)no chat template.*hint: add chat_template\.jinja"
    ):
        ChatTemplate.from_dir(tmp_path)


@pytest.mark.parametrize("value", [7, ["x"], [{"name": "default"}], [{"name": "d", "template": 1}]])
def test_a_template_that_is_no_text(tmp_path: Path, value: object) -> None:
    with pytest.raises(TemplateError, match=r"tokenizer_config\.json: chat_template: got"):
        ChatTemplate.from_dir(write(tmp_path, {"chat_template": value}))


def test_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateError, match="unreadable chat template"):
        ChatTemplate.from_dir(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json can't be read"):
        ChatTemplate.from_dir(tmp_path)

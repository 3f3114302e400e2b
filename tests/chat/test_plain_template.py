"""A fine-tune whose template writes turns and nothing else: it may think, so it can be held."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import qwen3_mlx
from qwen3_mlx import Qwen3, load
from qwen3_mlx.chat.runtime import _template
from qwen3_mlx.errors import TemplateError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ASKED = "What is 17 * 23?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Qwen3:
    folder = tmp_path_factory.mktemp("tuned") / "model"
    shutil.copytree(Path(qwen3_mlx.__file__).parent / "demo", folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": CHATML}))
    return load(folder)


def test_its_thought_is_told_apart(model: Qwen3) -> None:
    reply = model.generate(ASKED, temperature=0.0, max_tokens=300)
    assert reply.thinking and reply.answer.strip() == "17 * 23 = 391."


def test_a_budget_cuts_it(model: Qwen3) -> None:
    reply = model.generate(ASKED, temperature=0.0, max_tokens=300, thinking_budget=16)
    assert (reply.stats.thinking_tokens, reply.stats.thinking_cut) == (16, "budget")
    assert reply.answer.strip() == "17 * 23 = 391."


@pytest.mark.parametrize("options", [{"thinking": False}, {"thinking_budget": 0}])
def test_it_does_not_think_where_it_is_told_so(model: Qwen3, options: dict[str, bool]) -> None:
    """The template has no switch, so the thought is closed as soon as the model opens it."""
    reply = model.generate(ASKED, temperature=0.0, max_tokens=300, **options)
    assert reply.thinking == "" and reply.answer.strip() == "17 * 23 = 391."


def test_templates_that_know_tools_are_not_guessed() -> None:
    golden = Path(__file__).parents[1] / "golden"
    from qwen3_mlx.text import ChatTemplate

    for name in ("instruct_2507", "coder", "hybrid", "thinking_2507"):
        template = ChatTemplate((golden / f"{name}_template.jinja").read_text("utf-8"))
        assert not template.is_plain, name
    assert ChatTemplate(CHATML).is_plain
    refusing = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + CHATML
    assert ChatTemplate(refusing).is_plain


def test_only_an_embedder_goes_without_a_template(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    asked = [{"role": "user", "content": "text"}]
    assert _template(tmp_path, "embedder").render(asked) == "text"
    for kind in ("chat", "reranker"):
        with pytest.raises(TemplateError):
            _template(tmp_path, kind)
    (tmp_path / "chat_template.jinja").write_text("<{{ messages[0].content }}>")
    for kind in ("embedder", "chat"):
        assert _template(tmp_path, kind).render(asked) == "<text>"

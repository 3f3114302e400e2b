"""What is no regular file is never waited for, small files have a size, and counts are bounded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import qwen3_mlx
from qwen3_mlx.chat import journal
from qwen3_mlx.cli.app import app
from qwen3_mlx.errors import ConfigError, OptionError, Qwen3Error, SessionError
from qwen3_mlx.files import open_regular, read_json, read_small, write_atomically
from qwen3_mlx.options import GenerationOptions

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
NAMES = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "README.md",
    "modules.json",
    "additional_chat_templates/tool_use.jinja",
]
SECONDS = 10


def put(model: Path, name: str, kind: str) -> None:
    file = model / name
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(f"/dev/{kind}")


@pytest.mark.parametrize("kind", ["pipe", "zero", "null", "folder"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_something_else_among_its_files(tmp_path: Path, name: str, kind: str) -> None:
    model = shutil.copytree(DEMO, tmp_path / "models" / "one")
    shutil.copytree(DEMO, tmp_path / "models" / "two")
    put(model, name, kind)
    began = time.monotonic()
    try:
        qwen3_mlx.load(model)
    except Qwen3Error as error:
        assert len(str(error)) < 2000
    else:
        # A template or a tokenizer's file that is none counts as not there.
        unread = (
            "chat_template.jinja",
            "model.safetensors.index.json",
            "README.md",
            "modules.json",
        )
        assert name in unread or "add" in name
    for command in (["info", str(model)], ["models", str(tmp_path / "models")]):
        result = CliRunner().invoke(app, command)
        assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "two" in result.output, "the other model is shown all the same"
    assert time.monotonic() - began < SECONDS


def test_open_regular(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"12345"
    assert read_small(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_small(tmp_path / "file", 4)
    with pytest.raises(OSError, match="no regular file"):
        open_regular("/dev/zero")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    os.truncate(tmp_path / "file", 2**40)  # a hole: it takes no room
    with pytest.raises(ConfigError, match="more than 67108864 bytes"):
        read_json(tmp_path / "file")


@pytest.mark.parametrize("layers", [1001, 300_000, 3_000_000, 2**31 - 1, 2**31, 10**400])
@pytest.mark.parametrize("weights", [True, False])
def test_more_layers_than_any_qwen3(tmp_path: Path, layers: int, weights: bool) -> None:
    model = shutil.copytree(DEMO, tmp_path / "models" / "one")
    shutil.copytree(DEMO, tmp_path / "models" / "two")
    values = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(values | {"num_hidden_layers": layers}))
    if not weights:
        (model / "model.safetensors").unlink()
    began = time.monotonic()
    with pytest.raises(Qwen3Error, match=r"num_hidden_layers: got \d+.*, expected 1 to 1,000"):
        qwen3_mlx.load(model)
    assert CliRunner().invoke(app, ["info", str(model)]).exit_code == 1
    assert "two" in CliRunner().invoke(app, ["models", str(tmp_path / "models")]).output
    assert time.monotonic() - began < SECONDS


def test_an_index_that_is_no_text(tmp_path: Path) -> None:
    """Its message doesn't hold the whole file; nor does one about a name too long for any."""
    model = shutil.copytree(DEMO, tmp_path / "one")
    index = model / "model.safetensors.index.json"
    (model / "model.safetensors").unlink()  # beside a whole model an index is passed over
    names = ["x" * 300 + ".safetensors", "中" * 90 + ".safetensors", "\ud800.safetensors"]
    contents = [b"\xff" * 100_000, json.dumps({"weight_map": "x" * 10**5}).encode()]
    contents += [json.dumps({"weight_map": {"a": name}}).encode() for name in names]
    for content in contents:
        index.write_bytes(content)
        with pytest.raises(Qwen3Error) as caught:
            qwen3_mlx.load(model)
        assert len(str(caught.value)) < 1500


def test_kept_conversations_that_are_none(state_home: Path) -> None:
    from qwen3_mlx.chat import journal

    folder = state_home / "sessions"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "link.jsonl").symlink_to("nowhere")
    (folder / "zero.jsonl").symlink_to("/dev/zero")
    (folder / "folder.jsonl").mkdir()
    result = CliRunner().invoke(app, ["sessions", "list"])
    assert result.exit_code == 0, result.output
    with pytest.raises(SessionError, match=r"pipe\.jsonl can't be read"):
        journal.read(folder / "pipe.jsonl")


HUGE = 10**5000  # more digits than Python spells


@pytest.mark.parametrize(
    "options",
    [
        *({name: value} for name in ("seed", "max_tokens", "top_k") for value in (-HUGE, "x", [])),
        {"thinking_budget": -HUGE},
        *({name: HUGE} for name in ("thinking_budget", "max_tokens", "top_k", "min_tokens")),
        {"prefill_chunk": HUGE},
        {"temperature": HUGE},
        {"top_p": HUGE},
        {"logit_bias": {HUGE: HUGE}},
        {"logit_bias": {1: HUGE}},
        {"stop": [HUGE]},
        {"stop_text": HUGE},
        {"nonsense": HUGE},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_are_none(options: dict[str, Any]) -> None:
    model = qwen3_mlx.load("demo")
    with pytest.raises(OptionError) as caught:
        model.generate("hi", **options)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "value", ["x", [], {}, 0, -1, 1.5, True, HUGE, 2**31, float("nan")], ids=lambda value: "value"
)
@pytest.mark.parametrize("name", ["context", "kv_bits", "kv_window", "kv_sinks"])
def test_how_a_model_is_loaded(name: str, value: Any) -> None:
    if (name, value) == ("kv_sinks", 0):
        return
    options: dict[str, Any] = {name: value}
    with pytest.raises(OptionError):
        qwen3_mlx.load("demo", **options)


PATHS = (5, None, b"x", {}, "a\0b", "~\0", Path("a\0b"), HUGE, True, object(), "\ud800")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("read", ["load", "adapter", "draft", "save", "take up", "config"])
def test_paths_that_are_none(read: str, path: Any) -> None:
    model = qwen3_mlx.load("demo")
    reads: dict[str, Callable[[], object]] = {
        "load": lambda: qwen3_mlx.load(path),
        "adapter": lambda: qwen3_mlx.load(adapter=path),
        "draft": lambda: qwen3_mlx.load(draft=path),
        "save": lambda: model.session().save(path),
        "take up": lambda: qwen3_mlx.ChatSession.load(path, model),
        "config": lambda: qwen3_mlx.Qwen3Config.from_dir(path),
    }
    if path is None and read in ("adapter", "draft"):
        return  # without one
    with pytest.raises(OptionError) as caught:
        reads[read]()
    assert "a str or a Path that the system could have" in str(caught.value)


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "-1"])
def test_a_context_without_end_in_the_command_line(number: str) -> None:
    result = CliRunner().invoke(app, ["info", "demo", "--context", number])
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("content", [5, "", [5], ["a", "b"], [["role", "user"]], None, {}, b"x"])
def test_messages_that_are_none(content: Any) -> None:
    session = qwen3_mlx.load("demo").session()
    with pytest.raises(OptionError):
        session.send(content)
    assert session.messages == []


@pytest.mark.parametrize("linked", [False, True])
def test_nothing_but_a_file_is_written_over(tmp_path: Path, linked: bool) -> None:
    """As root a conversation that was saved to /dev/null took its place: no program ran on."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    named = link if linked else pipe
    with pytest.raises(OSError, match="no regular file") as refused:
        write_atomically(named, b"data")
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(SessionError, match="no regular file"):
        journal.save(named, "demo", GenerationOptions(), [{"role": "user", "content": "a"}])
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"data")
    assert pipe.is_fifo() and link.is_symlink() and sorted(tmp_path.iterdir()) == [link, pipe]


@pytest.mark.parametrize("there", [True, False])
def test_the_file_that_a_link_leads_to_is_written(tmp_path: Path, there: bool) -> None:
    """As with a configuration that lies among others in a repository."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    if there:
        (folder / "file").write_bytes(b"old")
    link.symlink_to(Path("folder", "file"))
    write_atomically(link, b"new")
    assert link.is_symlink() and (folder / "file").read_bytes() == b"new"
    assert [file.name for file in folder.iterdir()] == ["file"]

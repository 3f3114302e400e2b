"""The family's conversions: what is named, and a run that goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert import publish
from qwen3_mlx.config.recipes import RECIPES
from qwen3_mlx.errors import ModelNotFoundError, OptionError
from qwen3_mlx.hub import releases
from tests.hub_upload_stub import UploadStub
from tests.quantize.build import all_bytes, bf16_model
from tests.quantize.conftest import convert as convert_one
from tests.quantize.test_upload import hub as hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_every_released_model_is_there_with_known_recipes() -> None:
    found = publish.entries()
    assert {entry.model for entry in found} == {release.name for release in releases.RELEASES}
    assert {entry.recipe for entry in found} <= set(RECIPES)
    assert len({entry.target for entry in found}) == len(found)
    assert {entry.family for entry in found} == {"2504", "2507", "coder"}


def test_targets_are_named_after_model_and_recipe() -> None:
    entry = publish.entries(owner="me")[0]
    assert entry.target == "me/Qwen3-0.6B-4bit" and entry.source == "Qwen/Qwen3-0.6B"
    fp8 = [e for e in publish.entries() if "480B" in e.model]
    assert {e.source for e in fp8} == {"Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"}


@pytest.mark.parametrize(
    "old, new", [("dynamic", "dynamite"), ('"Qwen3-4B" = [', '"Qwen4-4B" = [')]
)
def test_a_family_file_with_a_mistake(tmp_path: Path, old: str, new: str) -> None:
    text = publish.FAMILY.read_text("utf-8")
    (tmp_path / "family.toml").write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(OptionError, match=r"Qwen4|dynamite"):
        publish.entries(tmp_path / "family.toml")


def test_sizes_are_those_of_a_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = releases.RELEASES[0]
    config = release.config() | {"num_hidden_layers": 2, "vocab_size": 512, "head_dim": 64}
    del config["quantization"]
    config |= {"hidden_size": 128, "intermediate_size": 192}
    monkeypatch.setattr(releases.Release, "config", lambda _: config)
    source = bf16_model(tmp_path / "in", config)
    for entry in publish.entries():
        if entry.model == release.name and entry.recipe != "dynamic":
            record = convert_one(source, tmp_path / entry.recipe, entry.recipe)
            assert publish.size(entry)[0] == record["weight_bytes"]


@pytest.fixture
def three(moe: Path, dense: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Three entries: one whose source is missing among two that work."""
    places = {"Qwen/a": dense, "Qwen/c": moe}

    def resolve(name: str) -> Path:
        if name not in places:
            raise ModelNotFoundError("unknown model", got=name)
        return places[name]

    monkeypatch.setattr(publish.resolve, "resolve", resolve)
    entry = publish.Entry("2504", "", "", "8bit", "")
    yield [replace(entry, model=n, source=f"Qwen/{n}", target=f"me/{n}-8bit") for n in "abc"]


def test_a_run_publishes_what_it_can_and_goes_on_later(
    hub: UploadStub,
    three: list[Any],
    tmp_path: Path,
    moe: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = publish.Options(tmp_path / "work")
    said: list[str] = []
    records = publish.run(three, options, said.append)
    assert [bool(record["published"]) for record in records] == [True, False, True]
    assert "unknown model: got Qwen/b" in records[1]["error"]
    assert set(hub.repos) == {"me/a-8bit", "me/c-8bit"}
    assert not (tmp_path / "work" / "a-8bit").exists()  # published, so not kept
    table = "\n".join(publish.summary_lines(records))
    assert "unknown model" in table and "me/c-8bit" in table and "%" in table
    monkeypatch.setattr(publish.resolve, "resolve", lambda _: moe)
    before = len(hub.sent())
    again = publish.run(three, options, said.append)
    assert all(record["published"] for record in again)
    assert said[-3:] == [
        "[1/3] me/a-8bit: done before",
        "[2/3] me/b-8bit from Qwen/b",
        "[3/3] me/c-8bit: done before",
    ]
    assert len(hub.sent()) == before  # b is c's bytes, which the hub has
    lines = (tmp_path / "work" / "published.jsonl").read_text().splitlines()
    assert [json.loads(line)["target"][3] for line in lines] == ["a", "b", "c", "b"]


def test_a_lost_upload_goes_on_without_converting_again(
    hub: UploadStub,
    three: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = publish.Options(tmp_path / "work")
    hub.always_cut = 10
    records = publish.run(three[:1], options, lambda _: None)
    assert "broke off" in records[0]["error"]
    kept = all_bytes(tmp_path / "work" / "a-8bit")
    hub.always_cut = None

    def never(*_: Any) -> None:
        pytest.fail("converted again")

    monkeypatch.setattr("qwen3_mlx.quantize.staging.write_checkpoint", never)
    records = publish.run(three[:1], options, lambda _: None)
    assert records[0]["published"]
    assert hub.branches["me/a-8bit", "main"] == kept


def test_a_torn_ledger_is_believed_up_to_the_tear(tmp_path: Path) -> None:
    ledger = publish.Ledger(tmp_path / "published.jsonl")
    ledger.add({"target": "a", "published": None})
    with ledger.file.open("ab") as stream:
        stream.write(b'{"target": "b", "publ')
    assert set(ledger.read()) == {"a"}
    ledger.add({"target": "c", "published": None})
    assert set(ledger.read()) == {"a", "c"}


@pytest.mark.parametrize(
    "line",
    [
        *("5", "[]", "null", '{"target": 5, "published": null}', '{"target": "b"}', "[" * 100_000),
        *('{"target": "b", "published": 3}', '{"target": "b", "published": null, "error": []}'),
        '{"target": "b", "published": null, "measured": 5}',
        '{"target": "b", "published": null, "measured": {"kl_mean": "x"}}',
        '{"target": "b", "published": null, "bytes": "x"}',
        '{"target": "b", "published": null, "bits_per_weight": null}',
    ],
)
def test_an_edited_ledger_line_counts_for_nothing(tmp_path: Path, line: str) -> None:
    ledger = publish.Ledger(tmp_path / "published.jsonl")
    ledger.add({"target": "a", "published": None, "error": None, "measured": None})
    with ledger.file.open("a") as stream:
        stream.write(f"{line}\n")
    ledger.add({"target": "c", "published": "u", "error": None, "measured": {"kl_mean": None}})
    assert set(ledger.read()) == {"a", "c"}
    assert len(list(publish.summary_lines(list(ledger.read().values())))) == 3


def test_the_program(
    three: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    work = ["--work", str(tmp_path / "work")]
    assert publish.main(["plan", "--only", "Qwen3-0.6B-*", *work]) == 0
    out = capsys.readouterr().out
    assert "8 conversions, 4 GB" in out and out.count("to do") == 8
    assert publish.main(["run", "--only", "no-such-model", *work]) == 1
    assert "nothing matches" in capsys.readouterr().err
    monkeypatch.setattr(publish, "entries", lambda owner=None: three)
    assert publish.main(["run", "--no-upload", "--keep", *work]) == 1  # b fails
    out = capsys.readouterr().out
    assert out.count("converted") == 2 and "unknown model" in out
    assert (tmp_path / "work" / "a-8bit" / "README.md").is_file()

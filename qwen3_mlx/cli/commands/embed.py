"""``qwen3-mlx embed``: embeds texts, JSON lines in and out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3_mlx.cli import json_lines
from qwen3_mlx.cli import options as opt
from qwen3_mlx.errors import Qwen3Error

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

DEFAULT = "embed-0.6b"


def command(
    model: json_lines.Model = None,
    file: json_lines.File = None,
    field: json_lines.Field = "text",
    instruct: Annotated[
        str | None,
        opt.option("TEXT", "What queries are asked for; documents go without."),
    ] = None,
    dimensions: Annotated[
        int | None, opt.option("N", "Keep the first N numbers of each vector.")
    ] = None,
    truncate: json_lines.Truncate = False,
    debug: opt.Debug = False,
) -> None:
    """Turn texts into vectors, JSON lines in and out.

    Each line is a string, or an object with the text in `--field`. For each, in order, comes
    `{"index": 0, "embedding": [...]}`, or `{"index": 0, "error": "..."}`; then the exit code is 1.
    Without MODEL it is `embed-0.6b`.

    Examples:

        qwen3-mlx embed < texts.jsonl > vectors.jsonl
        qwen3-mlx embed embed-4b queries.jsonl --field question --instruct "Find the answer"
    """
    name = model or DEFAULT
    json_lines.check_model(name, file, DEFAULT)
    loaded = json_lines.load(name, "embedder")
    from qwen3_mlx.retrieval.embed import check_dimensions

    check_dimensions(dimensions, loaded.config.hidden_size)

    def answers(values: list[Any]) -> Iterator[dict[str, Any]]:
        yield from _answers(loaded, values, field, instruct, dimensions, truncate=truncate)

    raise typer.Exit(json_lines.run(file, answers, "embedding"))


def _answers(
    model: Qwen3,
    values: list[Any],
    field: str,
    instruct: str | None,
    dimensions: int | None,
    *,
    truncate: bool,
) -> Iterator[dict[str, Any]]:
    """For each line its vector, or its own error."""
    from qwen3_mlx.retrieval import embed

    answers_or_errors: list[dict[str, Any]] = []
    ids = []
    for value in values:
        try:
            text = json_lines.text_of(value, field)
            ids.append(
                embed.token_ids(
                    *(model.tokenizer, text, model.config.context),
                    instruct=instruct,
                    truncate=truncate,
                )
            )
            answers_or_errors.append({})
        except Qwen3Error as error:
            answers_or_errors.append({"error": error.summary})
    vectors = iter(embed.vectors(model.network, ids, dimensions))
    for answer in answers_or_errors:
        yield answer or {"embedding": next(vectors).tolist()}

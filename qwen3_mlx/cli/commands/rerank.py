"""``qwen3-mlx rerank``: scores documents against a query, JSON lines in and out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3_mlx.cli import json_lines
from qwen3_mlx.cli import options as opt
from qwen3_mlx.errors import OptionError, Qwen3Error

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

DEFAULT = "rerank-0.6b"


def command(
    model: json_lines.Model = None,
    file: json_lines.File = None,
    query: Annotated[
        str | None, opt.option("TEXT", "The query; then each line is a document.")
    ] = None,
    field: json_lines.Field = "text",
    instruct: Annotated[
        str | None, opt.option("TEXT", "What makes a document a good one (default: web search).")
    ] = None,
    truncate: json_lines.Truncate = False,
    debug: opt.Debug = False,
) -> None:
    """Judge how well documents answer a query, JSON lines in and out.

    With `--query` each line is a document, a string or an object with the text in `--field`, and
    gives `{"index": 0, "score": 0.98}`. Without, each is `{"query": "...", "documents": [...]}`
    and gives `{"index": 0, "scores": [...]}`. Scores go from 0 to 1. A line that fails gives
    `{"index": 0, "error": "..."}`, and the exit code is 1. Without MODEL it is `rerank-0.6b`.

    Examples:

        qwen3-mlx rerank --query "What is MLX?" < documents.jsonl
        qwen3-mlx rerank rerank-4b questions.jsonl
    """
    from qwen3_mlx.hub.kinds import check_judges

    name = model or DEFAULT
    json_lines.check_model(name, file, DEFAULT)
    loaded = json_lines.load(name, "reranker")
    check_judges(loaded.kind, name)

    def answers(values: list[Any]) -> Iterator[dict[str, Any]]:
        yield from _answers(loaded, values, query, field, instruct, truncate=truncate)

    raise typer.Exit(json_lines.run(file, answers, "score"))


def _answers(
    model: Qwen3,
    values: list[Any],
    query: str | None,
    field: str,
    instruct: str | None,
    *,
    truncate: bool,
) -> Iterator[dict[str, Any]]:
    """For each line its scores, or its own error."""
    from qwen3_mlx.retrieval import rerank

    questions: list[list[list[int]] | Qwen3Error] = []
    for value in values:
        try:
            own, documents = _question(value, query, field)
            questions.append(
                [
                    rerank.token_ids(
                        *(model.tokenizer, own, text, model.config.context, f"document {i}"),
                        instruct=instruct,
                        truncate=truncate,
                    )
                    for i, text in enumerate(documents)
                ]
            )
        except Qwen3Error as error:
            questions.append(error)
    ids = [pair for question in questions if isinstance(question, list) for pair in question]
    scores = iter(rerank.scores(model.network, model.tokenizer, ids))
    for question in questions:
        if isinstance(question, Qwen3Error):
            yield {"error": question.summary}
        elif query is not None:
            yield {"score": next(scores)}
        else:
            yield {"scores": [next(scores) for _ in question]}


def _question(value: Any, query: str | None, field: str) -> tuple[str, list[str]]:
    """The query and the documents of a line. Raises `OptionError`."""
    if query is not None:
        return query, [json_lines.text_of(value, field)]
    own = value.get("query") if isinstance(value, dict) else None
    documents = value.get("documents") if isinstance(value, dict) else None
    if not isinstance(own, str) or not isinstance(documents, list):
        expected = 'an object with "query" and "documents", or --query'
        raise OptionError("the line", got=type(value).__name__, expected=expected)
    return own, documents

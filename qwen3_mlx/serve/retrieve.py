"""``/v1/embeddings`` and ``/v1/rerank``: vectors of texts, and scores of documents."""

from __future__ import annotations

import base64
import secrets
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.errors import OptionError
from qwen3_mlx.retrieval import embed, rerank
from qwen3_mlx.retrieval.batches import Ids, batch_states, in_order
from qwen3_mlx.serve import fields
from qwen3_mlx.serve.api_error import refused
from qwen3_mlx.serve.ask import Json
from qwen3_mlx.serve.fields import Fields

MOST_TEXTS = 10_000


@dataclass(frozen=True)
class Retrieval:
    """A prepared request: its token sequences, and how their states become the answer."""

    sequences: list[Ids]
    finish: Callable[[Any], Json]
    """Makes the answer from the states ``[N, C]``; called in the scheduler's thread."""
    ignored: tuple[str, ...] = ()

    def steps(self, runtime: Runtime) -> Generator[None, None, Json]:
        """Compute one batch a step, and return the answer."""
        states: dict[int, Any] = {}
        for batch in batch_states(runtime.network, self.sequences):
            states |= batch
            yield
        return self.finish(in_order(runtime.network, states))


def read_embeddings(body: Any, runtime: Runtime) -> Retrieval:
    """Parse a request and tokenize its texts. Raises `ApiError` or `Qwen3Error`."""
    found = Fields(body)
    _check_kind(runtime, "embedder")
    texts = _inputs(fields.required(found.raw("input"), "input"))
    instruct, dimensions = found.text("instruct"), found.integer("dimensions")
    embed.check_dimensions(dimensions, runtime.config.hidden_size)
    form = found.text("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise refused("encoding_format", form, "expected float or base64")
    cut = bool(found.flag("truncate"))
    found.refuse({"input_type": ("query", "document", "search_query", "search_document")})
    sequences = [_ids(runtime, text, f"input[{n}]", instruct, cut) for n, text in enumerate(texts)]
    name = _name(found, runtime)

    def finish(states: Any) -> Json:
        rows: Any = embed.normalised(states, dimensions).tolist()
        data = [
            {"object": "embedding", "index": n, "embedding": _spelled(row, form)}
            for n, row in enumerate(rows)
        ]
        return {"object": "list", "data": data, "model": name, "usage": _usage(sequences)}

    return Retrieval(sequences, finish, tuple(found.unknown()))


def _check_kind(runtime: Runtime, kind: str) -> None:
    if runtime.kind != kind:
        alias = {"embedder": "embed-0.6b", "reranker": "rerank-0.6b"}[kind]
        hint = f"serve one: qwen3-mlx serve {alias}"
        expected = f"a model made for it, an {kind}" if kind == "embedder" else f"a {kind}"
        got = f"{runtime.name}, which is for {runtime.kind}"
        raise OptionError("this model is not made for that", got=got, expected=expected, hint=hint)


def _inputs(value: Any) -> list[str | Ids]:
    """The inputs as a list: at most `MOST_TEXTS` texts or lists of token ids."""
    if isinstance(value, str) or _is_ids(value):
        value = [value]
    expected = f"a text, a list of ids, or at most {MOST_TEXTS:,} of them"
    sound = isinstance(value, list) and 0 < len(value) <= MOST_TEXTS
    if not sound or not all(isinstance(one, str) or _is_ids(one) for one in value):
        raise refused("input", value, f"expected {expected}")
    return list(value)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _ids(runtime: Runtime, text: str | Ids, what: str, instruct: str | None, cut: bool) -> Ids:
    tokenizer, context = runtime.tokenizer, runtime.config.context
    if isinstance(text, str):
        given: dict[str, Any] = {"instruct": instruct, "truncate": cut}
        return embed.token_ids(tokenizer, text, context, what, **given)
    if not all(0 <= one < runtime.config.vocab_size for one in text):
        raise refused(what, text[:8], f"expected ids below {runtime.config.vocab_size}")
    end = tokenizer.token_id(embed.END)
    ids = text if text[-1] == end else [*text, end]
    if len(ids) > context:
        raise refused(what, f"{len(ids)} ids", f"expected at most {context}")
    return ids


def _spelled(row: list[float], form: str) -> list[float] | str:
    if form == "float":
        return row
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def read_rerank(body: Any, runtime: Runtime) -> Retrieval:
    """Parse a request, tokenize query and documents. Raises `ApiError` or `Qwen3Error`."""
    found = Fields(body)
    _check_kind(runtime, "reranker")
    query = fields.required(found.text("query"), "query")
    documents = _documents(fields.required(found.items("documents"), "documents"))
    top, shown = found.integer("top_n"), bool(found.flag("return_documents"))
    if top is not None and top < 1:
        raise refused("top_n", top, "expected 1 or more")
    more: Any = {"instruct": found.text("instruct"), "truncate": bool(found.flag("truncate"))}
    tokenizer, context = runtime.tokenizer, runtime.config.context
    sequences = [
        rerank.token_ids(tokenizer, query, text, context, f"documents[{n}]", **more)
        for n, text in enumerate(documents)
    ]
    name = _name(found, runtime)

    def finish(states: Any) -> Json:
        scores = rerank.judged(runtime.network, tokenizer, states)
        ranked = sorted(range(len(scores)), key=lambda n: -scores[n])[:top]
        results: list[Json] = [{"index": n, "relevance_score": scores[n]} for n in ranked]
        if shown:
            results = [one | {"document": {"text": documents[one["index"]]}} for one in results]
        head = {"id": f"rerank-{secrets.token_hex(12)}", "model": name}
        return head | {"results": results, "usage": _usage(sequences)}

    return Retrieval(sequences, finish, tuple(found.unknown()))


def _documents(values: list[Any]) -> list[str]:
    texts: list[Any] = [one.get("text") if isinstance(one, dict) else one for one in values]
    if not texts or len(texts) > MOST_TEXTS:
        count = f"{len(texts)} documents"
        raise refused("documents", count, f"expected 1 to {MOST_TEXTS:,}")
    for n, text in enumerate(texts):
        if not isinstance(text, str):
            raise refused(f"documents[{n}]", text, "expected text, or an object with text")
    return texts


def _name(found: Fields, runtime: Runtime) -> str:
    found.text("model")
    return runtime.name


def _usage(sequences: list[Ids]) -> Json:
    total = sum(map(len, sequences))
    return {"prompt_tokens": total, "total_tokens": total}

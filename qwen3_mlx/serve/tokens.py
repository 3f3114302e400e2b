"""``/tokenize`` and ``/detokenize``: the ids of a text or of a prompt, and the text of ids."""

from __future__ import annotations

from typing import Any

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.serve import chat_completions
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.ask import Json, prompt_ids
from qwen3_mlx.serve.fields import Fields, required
from qwen3_mlx.text import Tokenizer

_OWN = ("with_pieces", "prompt", "content", "add_special_tokens", "add_special", "parse_special")
"""Fields that a chat's other requests don't have."""


def tokenized(body: Any, runtime: Runtime) -> tuple[Json, tuple[str, ...]]:
    """The ids of a text, or of the prompt of a chat with these fields; and what was ignored.

    Raises `ApiError` or `Qwen3Error`; for a text beside a chat, as only one can be meant.
    """
    found = Fields(body)
    pieces = bool(found.flag("with_pieces"))
    given = {name: found.text(name) for name in ("prompt", "content")}
    texts = {name: text for name, text in given.items() if text is not None}
    found.flag("add_special_tokens")  # no sequence begins with a token of its own
    found.flag("add_special")
    letters = found.flag("parse_special") is False
    if found.items("messages") is not None:
        ask = chat_completions.read({k: body[k] for k in body if k not in _OWN})
        _one(["messages", *texts])
        ids, ignored = prompt_ids(runtime, ask), ask.ignored
    else:
        _one([*texts])
        text = required(next(iter(texts.values()), None), "prompt")
        encode = runtime.tokenizer.encode_letters if letters else runtime.tokenizer.encode
        ids, ignored = encode(text), tuple(found.unknown())
    tokens: list[Any] = [_piece(runtime.tokenizer, token) for token in ids] if pieces else ids
    return {"tokens": tokens, "count": len(ids), "max_model_len": runtime.config.context}, ignored


def _one(names: list[str]) -> None:
    """Raise `ApiError` if more than one thing is to be tokenized."""
    if len(names) > 1:
        said = f"{' and '.join(names)}: got both, expected one\nhint: ask for each of them"
        raise ApiError(400, said, param=names[1])


def _piece(tokenizer: Tokenizer, token: int) -> Json:
    """A token in llama.cpp's form: its text, or its bytes if they are no whole characters."""
    raw = tokenizer.id_to_bytes(token)
    try:
        return {"id": token, "piece": raw.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(raw)}


def detokenized(body: Any, tokenizer: Tokenizer) -> tuple[Json, tuple[str, ...]]:
    """The text of ids, by vLLM's name and by llama.cpp's; and what was ignored.

    Raises `ApiError`.
    """
    found = Fields(body)
    found.text("model")
    ids = required(found.items("tokens"), "tokens")
    size = tokenizer.vocab_size
    if not all(type(token) is int and 0 <= token < size for token in ids):
        raise refused("tokens", ids[:8], f"expected ids below {size}")
    text = tokenizer.decode(ids)
    return {"prompt": text, "content": text}, tuple(found.unknown())

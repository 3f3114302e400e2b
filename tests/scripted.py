"""A model that says what a test tells it to: its network runs, its draws follow a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import Sampling
from qwen3_mlx.text.tokenizer import Tokenizer

Script = Callable[[str], str]
"""What has been said and put in so far -> what is said next; its first token is drawn."""
Reply = Callable[[str], str]
"""A prompt -> all that is said to it."""


def say(monkeypatch: pytest.MonkeyPatch, model: Qwen3, script: str | Script) -> None:
    """Make every turn of `model` say `script`: a text, and then the end; or what a function says.

    A forbidden token is left out, as if the model's second choice were the token behind it. Where a
    grammar doesn't allow the script, the network's own draw is said.
    """
    following = script if callable(script) else _text(script)
    _play(monkeypatch, model.tokenizer, lambda prompt: following)


def answer(monkeypatch: pytest.MonkeyPatch, model: Qwen3, reply: Reply) -> None:
    """Make every turn of `model` say what `reply` gives for its prompt, whatever runs beside it."""
    decode = model.tokenizer.decode
    _play(monkeypatch, model.tokenizer, lambda prompt: _text(reply(decode(prompt))))


def _play(
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Tokenizer,
    script_of: Callable[[Sequence[int]], Script],
) -> None:
    class Scripted(Sampler):
        def __init__(
            self,
            sampling: Sampling,
            vocab_size: int,
            prompt: Sequence[int],
            *more: Any,
            **named: Any,
        ) -> None:
            self.said: list[int] = []
            self.plan: list[int] = []
            self.forbidden: set[int] = set()
            super().__init__(sampling, vocab_size, prompt, *more, **named)
            self.script = script_of(prompt)

        def draw(self, logits: mx.array, allowed: mx.array | None = None) -> mx.array:
            other = super().draw(logits, allowed)
            if not self.plan:
                self.plan = tokenizer.encode(self.script(tokenizer.decode(self.said)))
            self.plan = [token for token in self.plan if token not in self.forbidden]
            self.plan = self.plan or [_end(tokenizer)]
            if allowed is not None and not allowed[self.plan[0]].item():
                return other
            return mx.array(self.plan[:1], mx.uint32)

        def observe(self, tokens: mx.array) -> None:
            super().observe(tokens)
            ids: list[int] = tokens.tolist()  # type: ignore[assignment]
            self.plan = self.plan[1:] if ids == self.plan[:1] else []
            self.said += ids

        def _add_bias(self, bias: Mapping[int, float]) -> None:
            super()._add_bias(bias)
            self.forbidden |= {token for token, value in bias.items() if value < -1e9}

    def each_alone(
        samplers: Sequence[Sampler], logits: Sequence[mx.array], joint: mx.array | None
    ) -> list[mx.array]:
        return [own.draw(row) for own, row in zip(samplers, logits, strict=True)]

    monkeypatch.setattr("qwen3_mlx.chat.turn_output.Sampler", Scripted)
    monkeypatch.setattr("qwen3_mlx.engine.decode.draw_together", each_alone)


def _text(text: str) -> Script:
    return lambda said: text[len(said) :] if text.startswith(said) else ""


def _end(tokenizer: Tokenizer) -> int:
    assert tokenizer.im_end is not None
    return tokenizer.im_end

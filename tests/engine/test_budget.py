"""The budget against the documented procedure, written plainly: two calls and no cache."""

from __future__ import annotations

import mlx.core as mx
import pytest

from qwen3_mlx.engine import decode
from qwen3_mlx.engine.control import Control
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.transformer import Qwen3Body, Qwen3Network
from qwen3_mlx.options import Sampling
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests import tiny
from tests.oracle import assert_close

GREEDY = Sampling(temperature=0, top_p=1, top_k=0)
CLOSE, EOS, OPEN, TOOL = 5, 7, 24, 25  # the last two are beyond the vocabulary of the networks
MARKERS = Markers(OPEN, CLOSE, TOOL, frozenset({EOS}))
STOP = (3, 9, CLOSE, 2)
PROMPT = [1, 2, 3]
SEEDS = (52, 77, 104, 106)  # whose greedy output closes its thought, and later ends
MAX_TOKENS = 70


class Plain:
    """Qwen's quickstart, "Thinking Budget", step by step; no forward pass is made twice."""

    def __init__(self, network: Qwen3Network) -> None:
        self.network = network
        self.known: dict[tuple[int, ...], int] = {}

    def next(self, ids: list[int]) -> int:
        """The likeliest token, from a forward pass over everything before it."""
        if (text := tuple(ids)) not in self.known:
            self.known[text] = int(mx.argmax(self.network(mx.array([ids]))[0, -1]).item())
        return self.known[text]

    def read(self, ids: list[int]) -> None:
        """Learn what follows each beginning of `ids`, from one forward pass over all of it.

        A token's logits depend on nothing behind it. What is asked for and isn't a beginning of
        what was read costs a pass of its own, so texts that were guessed wrong change no answer.
        """
        likeliest = mx.argmax(self.network(mx.array([ids]))[0], axis=-1).tolist()
        for end, token in enumerate(likeliest, 1):
            self.known.setdefault(tuple(ids[:end]), token)

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """`count` tokens at most."""
        output: list[int] = []
        while len(output) < count and EOS not in output:
            output.append(self.next(ids + output))
        return output

    def two_calls(self, prompt: list[int], budget: int, max_tokens: int) -> list[int]:
        output = self.greedy(prompt, budget)
        if EOS in output:
            return output
        if CLOSE not in output:
            output += STOP
        return output + self.greedy(prompt + output, max_tokens - len(output))


def ours(
    network: Qwen3Network,
    prompt: list[int],
    limit: int | None,
    *,
    control: Control | None = None,
    chunk: int = 2048,
    max_tokens: int = MAX_TOKENS,
    inside: bool = True,
) -> tuple[list[int], TurnSequence, PromptCache]:
    cache = PromptCache(network)
    logits = prefill(network, prompt, cache, chunk)
    assert logits is not None
    decoder = decode.Decoder(network, cache, Sampler(GREEDY, 24, prompt), logits)
    budget = ThinkingBudget(limit, STOP)
    turn = TurnSequence(MARKERS, budget, max_tokens, control or Control(), inside)
    return [token for ids, _ in decode.run(decoder, turn) for token in ids], turn, cache


@pytest.mark.parametrize("seed", SEEDS)
def test_every_budget_gives_the_documented_tokens(seed: int) -> None:
    network, _ = tiny.network(seed)
    plain = Plain(network)
    natural = plain.greedy(PROMPT, MAX_TOKENS)
    assert CLOSE in natural and natural[-1] == EOS
    cuts = set()
    for budget in range(1, len(natural) + 1):
        tokens, turn, _ = ours(network, PROMPT, budget)
        plain.read(PROMPT + tokens)
        assert tokens == plain.two_calls(PROMPT, budget, MAX_TOKENS), budget
        cuts.add(turn.cut)
        assert turn.thinking_tokens == min(budget, natural.index(CLOSE))
    assert cuts == {"budget", ""}
    assert ours(network, PROMPT, None)[0] == natural


def test_any_prefill_chunk_gives_the_same_tokens() -> None:
    network, _ = tiny.network(77, num_hidden_layers=1)
    prompt = [(i * 7 + i // 5) % 20 + 1 for i in range(512)]
    expected = Plain(network).two_calls(prompt, 6, 14)
    for chunk in range(1, 513):
        assert ours(network, prompt, 6, chunk=chunk, max_tokens=14)[0] == expected, chunk


def test_the_cache_is_as_if_the_stop_text_had_been_generated() -> None:
    network, _ = tiny.network(77)
    tokens, turn, cache = ours(network, PROMPT, 9)
    assert turn.cut == "budget"
    assert cache.tokens == PROMPT + tokens
    cache.drop_uncommitted()
    fresh = PromptCache(network)
    prefill(network, cache.tokens, fresh)
    for held, wanted in zip(cache.layers, fresh.layers, strict=True):
        assert held.offset == wanted.offset == len(cache.tokens)
        for got, want in zip(held.state, wanted.state, strict=True):
            length = len(cache.tokens)
            assert_close(got[:, :, :length], want[:, :, :length])


def test_the_budget_costs_one_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = tiny.network(77)
    calls: list[int] = []
    forward = Qwen3Body.__call__

    def counted(self: Qwen3Body, tokens: mx.array, cache: list[KVCache] | None = None) -> mx.array:
        calls.append(tokens.shape[1])
        return forward(self, tokens, cache)

    monkeypatch.setattr(Qwen3Body, "__call__", counted)
    tokens, _, _ = ours(network, PROMPT, 9)
    generated = len(tokens) - len(STOP)
    assert calls == [len(PROMPT)] + [1] * 9 + [len(STOP)] + [1] * (generated - 9)


class _InterruptAt(Control):
    """Presses the key when asked for the n-th time, as another thread would at that moment."""

    def __init__(self, kind: str, at: int) -> None:
        super().__init__()
        self.kind, self.at, self.asked = kind, at, 0

    @property
    def stopped(self) -> bool:
        self.asked += 1
        if self.asked == self.at:
            self.interrupt(self.kind)  # type: ignore[arg-type]
        return super().stopped


@pytest.mark.parametrize("at", [1, 2, 5, 17])
def test_answer_now_is_the_same_cut(at: int) -> None:
    network, _ = tiny.network(77)
    tokens, turn, _ = ours(network, PROMPT, None, control=_InterruptAt("answer", at))
    assert tokens == Plain(network).two_calls(PROMPT, at, MAX_TOKENS)
    assert turn.cut == "user"


def test_answer_now_does_nothing_to_an_answer() -> None:
    network, _ = tiny.network(77)
    natural = Plain(network).greedy(PROMPT, MAX_TOKENS)
    at = natural.index(CLOSE) + 3
    tokens, turn, _ = ours(network, PROMPT, None, control=_InterruptAt("answer", at))
    assert tokens == natural and turn.cut == ""


def test_stop_ends_the_turn_and_keeps_the_cache_exact() -> None:
    network, _ = tiny.network(77)
    tokens, turn, cache = ours(network, PROMPT, None, control=_InterruptAt("stop", 4))
    assert tokens == Plain(network).greedy(PROMPT, 4)
    assert turn.finish_reason == "interrupted"
    assert cache.tokens == PROMPT + tokens


def test_max_tokens_ends_the_turn() -> None:
    network, _ = tiny.network(77)
    tokens, turn, _ = ours(network, PROMPT, None, max_tokens=5)
    assert tokens == Plain(network).greedy(PROMPT, 5) and turn.finish_reason == "length"


def test_the_first_stop_wins_over_a_later_wish() -> None:
    control = Control()
    control.interrupt("stop")
    control.interrupt("answer")
    assert control.stopped
    with pytest.raises(ValueError, match="'answer' or 'stop'"):
        control.interrupt("now")  # type: ignore[arg-type]

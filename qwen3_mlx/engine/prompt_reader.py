"""Reads prompts beside running sequences: short ones as rows of steps, others by passes.

Where this package's kernels multiply rows, a step reads 16 tokens in little more than the time of
one, while a pass unpacks all weights: 5.5 ms against 35 to 50 for 8B on an H200. There a long
prompt is read by such steps too while others answer, as each pass would keep them waiting.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

import mlx.core as mx

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.device.fork import about_to_compute
from qwen3_mlx.engine.fair import SHORTEST, ChunkPace
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.task import Task
from qwen3_mlx.engine.token_ids import check_token_ids
from qwen3_mlx.fit.chunk_size import chunk_size
from qwen3_mlx.nn.fused_rows import MOST_ROWS, FusedRows
from qwen3_mlx.nn.transformer import Qwen3Network

SHORT = 128
"""Tokens up to which steps of `MOST_ROWS` rows are faster than a pass."""
SLOWEST = 2.5
"""Times the seconds per token of passes that steps may take where a pass takes longer than it may.
On an H200, 8B: 0.5 ms against 0.2 in passes of twice their own 40 ms."""
PASS_EVERY = 16
"""Chunks of which one is read by a pass though steps are faster, as longer passes may be faster;
none where it would take longer than it may, or read less than a step does."""
LESSONS = (32, 16, 32, 16, 32, 16)
"""Tokens of the passes by which a reader learns its pace in idle time, the last one first: only
unlike ones tell a pass's own time, and a compiler may delay the first of each."""


class PromptReader:
    """Reads one network's prompts, some tokens per call."""

    def __init__(
        self,
        network: Qwen3Network,
        config: Qwen3Config,
        rows: Callable[[], FusedRows | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        new_cache: Callable[[], PromptCache] | None = None,
    ) -> None:
        """rows: the kernels of rows in use; asked each time, as a proof may end meanwhile."""
        self._network, self._config, self._rows, self._clock = network, config, rows, clock
        self._new_cache = new_cache or (lambda: PromptCache(network))
        self.pace = ChunkPace()
        """That of passes."""
        self._steps = deque[float](maxlen=8)
        """Seconds per token of the last full steps."""
        self._chunks_by_steps, self._lessons = 0, [*LESSONS]

    def read(self, task: Task, seconds: float, awaited: bool = False) -> mx.array | None:
        """Read for about `seconds`; the logits ``[1, V]`` behind the whole prompt, else None.

        awaited: whether other sequences answer, and wait for this.
        """
        cache = task.cache
        assert cache is not None
        done, began = len(cache.tokens), self._clock()
        form, total = cache.cache_format, len(task.prompt)
        most = chunk_size(self._config, form, done, total, task.prefill_chunk)
        size = self.pace.size(seconds, min(most, total - done), done)
        by_steps = task.left <= SHORT or (awaited and self._are_steps_better(size, seconds))
        logits, rows = None, self._rows()
        if by_steps and awaited and rows is not None and rows.reads and not cache.tokens:
            size = min(size, SHORTEST)  # steps need a beginning, and a pass of few tokens is short
        if by_steps and most >= MOST_ROWS:
            logits = self._by_rows(task, cache, began + seconds)
        if logits is None:
            logits = prefill(self._network, task.prompt[done : done + size], cache, size)
            self.pace.took(size, self._clock() - began, done)
        return None if task.left else logits

    def get_ready(self) -> bool:
        """Time a pass of blank tokens and a step behind it, in idle time; False if enough are.

        Only where steps read prompts: elsewhere the first prompt teaches the pace of passes, since
        nothing else could read it. Where it fails, for want of memory say, it isn't tried again.
        """
        rows = self._rows()
        if rows is None or not (rows.reads and self._lessons) or self._network.model.lead:
            return False
        try:
            self._learn(rows, self._lessons.pop())
        except Exception:  # this only tells times: a lasting fault will fail the next turn
            logging.getLogger(__name__).debug("timing a pass failed", exc_info=True)
            self._lessons.clear()
        return True

    def _learn(self, rows: FusedRows, size: int) -> None:
        cache, began = self._new_cache(), self._clock()
        prefill(self._network, [0] * size, cache, size)
        self.pace.took(size, self._clock() - began)
        if _next_rows(rows, cache, MOST_ROWS):
            self._step(rows, cache, [0] * MOST_ROWS)

    def _are_steps_better(self, size: int, seconds: float) -> bool:
        """Whether steps read a token sooner than a pass, or not much later than one that is late.

        Before the first step that is assumed, so that it is tried, and before the first pass too:
        it may take long, while steps are known to be short.
        """
        if not (self._steps and self.pace.seconds):
            return True
        by_steps, by_pass = min(self._steps) * size, self.pace.own + size * self.pace.seconds
        if by_pass > seconds or size < MOST_ROWS:  # a short one would be worth nothing
            return by_steps <= SLOWEST * by_pass
        self._chunks_by_steps += 1
        return by_steps <= by_pass and self._chunks_by_steps % PASS_EVERY != 0

    def _by_rows(self, task: Task, cache: PromptCache, until: float) -> mx.array | None:
        """Read as rows until that time, one step at least; the last logits, or None."""
        logits, rows = None, self._rows()
        while rows is not None and (size := _next_rows(rows, cache, task.left)):
            if logits is not None and cache.grows(size):  # slower than foreseen: the next round's
                break
            done, began = len(cache.tokens), self._clock()
            logits = self._step(rows, cache, task.prompt[done : done + size])
            now = self._clock()
            if now + (now - began) > until:  # another would end too late
                break
        return logits

    def _step(self, rows: FusedRows, cache: PromptCache, tokens: list[int]) -> mx.array:
        """As `prefill`; notes the time of a full step."""
        began = self._clock()
        about_to_compute()
        check_token_ids(tokens, self._network.vocab_size)
        cache.make_room(len(tokens))
        logits = rows.successive(mx.array(tokens, mx.uint32)[:, None], cache.layers)[-1]
        mx.eval(logits)
        cache.tokens.extend(tokens)
        if len(tokens) == MOST_ROWS:
            self._steps.append((self._clock() - began) / len(tokens))
        return logits


def _next_rows(rows: FusedRows, cache: PromptCache, left: int) -> int:
    """Tokens that a step reads of a prompt's `left`; 0 if a pass is due."""
    if left < 2:
        return 0
    size = min(left, MOST_ROWS)
    size -= left - size == 1  # one token alone would take a pass
    return size if rows.multiplies([cache.layers], [size]) else 0

"""The server's counters, in Prometheus' text format."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qwen3_mlx.events import Done

if TYPE_CHECKING:
    from qwen3_mlx.serve.desk import Desk

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of the time to first token, in seconds."""


class Metrics:
    """Counts of turns, requests and tokens; only the event loop changes them."""

    def __init__(self) -> None:
        self.finished: Counter[str] = Counter()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.tokens: Counter[str] = Counter()
        self.cuts = self.failed = self.gone = 0
        self._first = [0] * (len(BUCKETS) + 1)
        self._first_sum = 0.0

    def closed(self, done: Done | None, failure: Exception | None) -> None:
        """Count a turn that has ended or failed; with neither, its client disconnected."""
        if done is None:
            self.failed += failure is not None
            self.gone += failure is None
            return
        stats = done.stats
        self.finished[done.finish_reason] += 1
        self.cuts += bool(stats.thinking_cut)
        self.tokens["prompt"] += stats.prompt_tokens
        self.tokens["cached"] += stats.cached_tokens
        self.tokens["thinking"] += stats.thinking_tokens
        self.tokens["answer"] += stats.answer_tokens
        self._first[bisect_left(BUCKETS, stats.ttft_s)] += 1
        self._first_sum += stats.ttft_s

    def text(self, desk: Desk) -> str:
        """All metrics in Prometheus' text format, with the scheduler's and the caches' counters."""
        scheduler = desk.scheduler
        prefixes, counts = scheduler.prefixes.counts(), scheduler.counts
        kernels = desk.kernels
        trying = scheduler.side_by_side.trying or (kernels is not None and kernels.under_way)
        lines = _lines("turns_total", {f'end="{k}"': v for k, v in self.finished.items()})
        lines += _lines("tokens_total", {f'kind="{k}"': v for k, v in self.tokens.items()})
        asked = {f'path="{p}",status="{s}"': v for (p, s), v in self.statuses.items()}
        lines += _lines("requests_total", asked)
        lines += self._histogram()
        single = {
            "turns_failed_total": self.failed,
            "clients_gone_total": self.gone,
            "thinking_cuts_total": self.cuts,
            "generated_tokens_total": counts.generated_tokens,
            "steps_total": counts.steps,
            "passes_total": counts.passes,
            "loop_faults_total": counts.faults,
            "longest_gap_seconds": round(counts.longest_gap, 4),
            "trying_kernels": int(trying),
            "running": scheduler.running,
            "waiting": scheduler.waiting,
            "prefixes": prefixes.entries,
            "prefix_bytes": prefixes.nbytes,
            "prefix_bytes_limit": prefixes.limit,
            "prefix_evictions_total": prefixes.evictions,
            "loop_age_seconds": round(time.monotonic() - scheduler.last_round, 3),
        }
        for name, value in single.items():
            lines += _lines(name, {"": value})
        return "\n".join(lines) + "\n"

    def _histogram(self) -> list[str]:
        lines, total = ["# TYPE qwen3_mlx_first_token_seconds histogram"], 0
        for bound, count in zip((*BUCKETS, "+Inf"), self._first, strict=True):
            total += count
            lines.append(f'qwen3_mlx_first_token_seconds_bucket{{le="{bound}"}} {total}')
        lines.append(f"qwen3_mlx_first_token_seconds_sum {self._first_sum:.6f}")
        return [*lines, f"qwen3_mlx_first_token_seconds_count {total}"]


def _lines(name: str, values: Mapping[str, float]) -> list[str]:
    kind = "counter" if name.endswith("_total") else "gauge"
    found = [f"qwen3_mlx_{name}{f'{{{k}}}' if k else ''} {v}" for k, v in values.items()]
    return [f"# TYPE qwen3_mlx_{name} {kind}", *found]

"""Runs the experts' kernels until one fails, then MLX's operations, within the same turn."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)

import mlx.core as mx

from qwen3_mlx.device.out_of_memory import is_out_of_memory


class Guarded:
    """Shared by a network's layers: whether its kernels may run, and which have run already."""

    def __init__(self, failed: Callable[[str], object]) -> None:
        self._failed = failed
        self._met: set[Hashable] = set()
        self.fault = ""

    def __call__(
        self, kind: Hashable, fused: Callable[[], mx.array], plain: Callable[[], mx.array]
    ) -> mx.array:
        """The result of `fused`, or of `plain` from the first fault on. Raises if memory runs out.

        kind: names the kernels; those of a new kind are evaluated at once, within the guard, which
        so catches their faults.
        """
        if self.fault:
            return plain()
        try:
            made = fused()
            if kind not in self._met:
                computed(made)
                self._met.add(kind)
            return made
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if is_of_a_trace(error):
                return plain()
            self.fault = first_line(error)
            self._failed(self.fault)
            return plain()


def computed(*arrays: mx.array) -> None:
    """Evaluate `arrays`, except within a trace, so that compiler and device errors surface."""
    try:
        mx.eval(*arrays)
    except ValueError as error:  # Metal reports a refused launch by ValueError, too
        if not is_of_a_trace(error):
            raise


def is_of_a_trace(error: Exception) -> bool:
    """Whether MLX refused to evaluate only because this thread is inside `mx.compile`.

    That is no fault of a kernel. Traces of other threads don't matter: since MLX 0.32 the flag
    belongs to one thread.
    """
    return "during function transformations" in str(error)


def first_line(error: Exception) -> str:
    """The first line of the error's message, at most 160 characters; else the name of its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]

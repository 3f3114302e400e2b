"""Whether MLX can listen where the plan says: MLX itself says a number, or waits without a word."""

from __future__ import annotations

import socket

from qwen3_mlx.group.plan import Plan

HINT = "does another group run here? --port N takes other ports"


def fault(plan: Plan, rank: int) -> str:
    """Why machine `rank` can't listen on its port for MLX's sums; empty if it can, or needn't."""
    if rank >= plan.size or (rank and plan.backend != "ring"):  # there only the first one listens
        return ""
    address, _, port = plan.links[rank].rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, int(port)))
            probe.listen(1)
        except OSError as error:
            return f"{plan.links[rank]}: {error.strerror}"
    return ""

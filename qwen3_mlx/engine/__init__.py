"""Token ids in, token ids out: prefill, pipelined decoding, sampling, the budget. Knows no text."""

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)

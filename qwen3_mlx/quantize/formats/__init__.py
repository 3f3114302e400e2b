"""Where weights come from: one reader a format, all giving the same dense rows.

`open_source` looks at config.json and the tensors' names and chooses:

    plain   Hugging Face float16, bfloat16, float32
    mlx     MLX's own packed weights (affine and the mx and nv formats)
    fp8     Qwen's FP8 releases: float8_e4m3 with a scale for each block of 128 x 128
    awq     AWQ, packed along the outputs ("gemm")
    gptq    GPTQ, packed along the inputs, with or without activation order

GGUF is not read: MLX's reader takes the whole file into memory at once, and the tokenizer and
config would have to be rebuilt from metadata; every released Qwen3 exists as safetensors.
"""

from qwen3_mlx.quantize.formats.source import Source, Weight, open_source

__all__ = ["Source", "Weight", "open_source"]

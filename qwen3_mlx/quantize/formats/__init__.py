"""Readers of weight formats, which all return dense rows.

`open_source` chooses one by config.json and the tensors' names:

    plain               Hugging Face float16, bfloat16, float32
    mlx                 MLX's own packed weights (affine and the mx and nv formats)
    fp8                 float8_e4m3 with a scale for a tensor, a row or a block (Qwen's are blocks)
    awq                 AWQ, packed along the outputs ("gemm") or in rows ("gemv")
    gptq                GPTQ and AutoRound, with or without activation order, of mixed bits too
    compressed-tensors  llm-compressor's integers, FP8 and NVFP4
    bitsandbytes        nf4, fp4 and int8
    gguf                llama.cpp's types, except those whose codes index a grid
"""

from qwen3_mlx.quantize.formats.source import Source, Weight, open_source

__all__ = ["Source", "Weight", "open_source"]

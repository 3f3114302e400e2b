"""The command line with `convert` in it: ``python -m tests.quantize.program ARGUMENTS``."""

from qwen3_mlx.cli import main

if __name__ == "__main__":
    main()

"""``python -m qwen3_mlx``: the command ``qwen3-mlx``, also where no script of it is on the path."""

from qwen3_mlx.cli import main

if __name__ == "__main__":
    main()

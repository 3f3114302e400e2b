"""The command line: ``qwen3-mlx chat``, ``generate``, ``info``."""


def main() -> None:
    """Run the command line; exits the process."""
    from qwen3_mlx.cli.app import run

    raise SystemExit(run())

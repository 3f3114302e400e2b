"""The command line: ``qwen3-mlx chat``, ``generate``, ``info``."""


def main() -> None:
    """Run the command line; exits the process.

    Its import takes long enough for a Ctrl-C to fall into it.
    """
    try:
        from qwen3_mlx.cli.app import run

        code = run()
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)

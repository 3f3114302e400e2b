"""The real command line; its model says what a file says: ``python -m tests.cli.tools_chat SAID``.

SAID is a JSON list: what the model says, step by step, the last of them ever again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from qwen3_mlx.cli import main
from qwen3_mlx.cli.chat import line_chat, load, start
from qwen3_mlx.cli.tui import consent_dialog
from tests.cli import tools_given

if __name__ == "__main__":
    said = json.loads(Path(sys.argv.pop(1)).read_text("utf-8"))
    model = tools_given.model()
    tools_given.say_in_turn(pytest.MonkeyPatch(), model, said)
    load.open_model = lambda *_: model  # type: ignore[assignment]
    load.load_model = lambda *_: model  # type: ignore[assignment]
    # its network is too small for kernels that could be tried
    start.try_kernels = line_chat.try_kernels = lambda *_, **__: ""
    consent_dialog.QUIET_S = 0.0  # keys come at once here
    main()

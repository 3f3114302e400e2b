"""Messages to token ids, and token ids to events. Nothing here imports MLX."""

from qwen3_mlx.text.detokenize import StreamDetokenizer
from qwen3_mlx.text.messages import Message, normalise
from qwen3_mlx.text.mode import Mode, resolve_mode, soft_switch
from qwen3_mlx.text.splitter import Splitter
from qwen3_mlx.text.stable_prefix import stable_prefix
from qwen3_mlx.text.stop import StopSequences
from qwen3_mlx.text.template import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer
from qwen3_mlx.text.tool_calls import parse_tool_call
from qwen3_mlx.text.tools import normalise_tools

__all__ = [
    "ChatTemplate",
    "Message",
    "Mode",
    "Splitter",
    "StopSequences",
    "StreamDetokenizer",
    "Tokenizer",
    "normalise",
    "normalise_tools",
    "parse_tool_call",
    "resolve_mode",
    "soft_switch",
    "stable_prefix",
]

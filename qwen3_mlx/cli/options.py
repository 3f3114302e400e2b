"""The options commands share, each defined once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qwen3_mlx.cli.settings import suggestions

THINKING, SAMPLING, RUN = "Thinking", "Sampling (default: Qwen's preset for the mode)", "Running"
DEBUG_KEY = "qwen3_mlx.debug"
FLAG = ""  # typer would show <bool> as what a flag takes


def _remember(context: typer.Context, value: bool) -> bool:
    # kept where the group that reports errors can see it
    context.meta[DEBUG_KEY] = value
    return value


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="The model; without one the configured, else the last you chatted with, else `demo`.",
        autocompletion=suggestions.models,
    ),
]
Think = Annotated[
    bool | None,
    typer.Option(
        "--think/--no-think",
        metavar=FLAG,
        help="Think before answering, or answer at once. Without either the model's default holds.",
        rich_help_panel=THINKING,
        show_default=False,
    ),
]
Budget = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="At most N tokens of thinking; then it is told to answer. 0 is --no-think.",
        rich_help_panel=THINKING,
    ),
]


class ShowThinking(StrEnum):
    """When a chat shows the thinking."""

    always = "always"
    live = "live"
    never = "never"


Show = Annotated[
    ShowThinking | None,
    typer.Option(
        "--show-thinking",
        metavar="WHEN",
        help="Show it always, live (folded away when the answer starts), or never (default: live).",
        rich_help_panel=THINKING,
    ),
]
HideThinking = Annotated[
    bool,
    typer.Option(
        "-R",
        "--hide-reasoning",
        metavar=FLAG,
        help="Don't show the thinking.",
        rich_help_panel=THINKING,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="At most N generated tokens in all; more than the budget.",
        rich_help_panel=RUN,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Tokens the model can look back on; beyond its own length YaRN is switched on.",
        rich_help_panel=RUN,
    ),
]
KvBits = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Keep keys and values in 8 or 4 bits: half or a quarter of the memory a token.",
        rich_help_panel=RUN,
    ),
]
KvWindow = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="See only the last N tokens and the first four: memory that doesn't grow.",
        rich_help_panel=RUN,
    ),
]
System = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The system prompt.", rich_help_panel=RUN),
]
SystemFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The system prompt from a file; once computed it is kept on disk for the next chat.",
        rich_help_panel=RUN,
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="[ID]",
        help="Go on with the last conversation, or with ID (see: qwen3-mlx sessions list).",
        autocompletion=suggestions.conversations,
        rich_help_panel=RUN,
    ),
]
NoSave = Annotated[
    bool,
    typer.Option(
        "--no-save",
        metavar=FLAG,
        help="Write nothing to the disk: no conversation, no history, no computed prompt.",
        rich_help_panel=RUN,
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(metavar="GB", help="Ask for a Mac with so much memory, not this machine."),
]
Plain = Annotated[
    bool | None,
    typer.Option(
        "--plain/--no-plain",
        metavar=FLAG,
        help="Chat line by line, not on the full screen.",
        rich_help_panel=RUN,
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="The same seed gives the same answer.", rich_help_panel=RUN),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="0 is greedy, which a thinking Qwen3 should never be: it may repeat without end.",
        rich_help_panel=SAMPLING,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Draw from the likeliest tokens that together have this probability.",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Draw from the N likeliest tokens; 0 is off.", rich_help_panel=SAMPLING
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Drop tokens less likely than X times the likeliest.",
        rich_help_panel=SAMPLING,
    ),
]
PresencePenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Against loops: 0 to 2 off the score of every token already generated.",
        rich_help_panel=SAMPLING,
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Divide the score of every token already seen; 1 is off.",
        rich_help_panel=SAMPLING,
    ),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        metavar=FLAG,
        help="Show the traceback of an error.",
        callback=_remember,
        is_eager=True,
    ),
]

"""Many prompts at once: those that can be prepared are computed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwen3_mlx.chat.given import as_messages
from qwen3_mlx.chat.request import prepare
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.chat.turns import Turn, TurnList, new_scheduler, run_all
from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.events import Reply
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text import normalise_tools
from qwen3_mlx.text.messages import MessageLike
from qwen3_mlx.text.tool_calls import Tools


def reply_to_all(
    runtime: Runtime,
    prompts: Sequence[str | Sequence[MessageLike]],
    options: GenerationOptions,
    tools: Tools | None,
    turns: TurnList,
    parallel: int,
    tell: Callable[[int, int], object],
) -> list[Reply | Qwen3Error]:
    """The reply to each prompt, or its error, in their order; the turns are added to `turns`.

    `tell` is called with replies done and in all. Raises what is no `Qwen3Error`.
    """
    found: dict[int, Reply | Qwen3Error] = {}
    numbers = []
    for number, prompt in enumerate(prompts):
        try:
            request = prepare(runtime, as_messages(prompt), options, normalise_tools(tools))
            turns.add(Turn(runtime, request))
            numbers.append(number)
        except Qwen3Error as error:
            found[number] = error
    scheduler = new_scheduler(runtime, parallel=parallel)
    for index, reply in run_all(scheduler, list(turns)):
        if isinstance(reply, Exception) and not isinstance(reply, Qwen3Error):
            raise reply
        found[numbers[index]] = reply
        tell(len(found), len(prompts))
    return [found[number] for number in range(len(prompts))]

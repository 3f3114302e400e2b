"""What to say of a path that is not served: most are a base URL that begins in another place."""

from __future__ import annotations

from collections.abc import Iterable


def instead(path: str, allowed: str | None, known: Iterable[str]) -> str:
    """The end of the sentence that `path` is not served here.

    allowed: the methods that the path takes, if only the method is wrong. known: the served paths.
    """
    if allowed is not None:
        return f"; it takes {allowed}"
    served = [one for one in known if one != "/" and "{" not in one]
    for one in sorted(served, key=len, reverse=True):
        if path.endswith((one, one.removeprefix("/v1"))):
            return f"; did you mean {one}? The client's base URL says where it begins"
    if (plain := path.removeprefix("/v1")) in served:
        return f"; did you mean {plain}?"
    if path.startswith("/api/"):
        hint = "in a client that speaks Ollama's API, choose an OpenAI-compatible provider"
        return f"\nhint: {hint}, with a base URL that ends in /v1"
    hint = "OpenAI's API is below /v1, Anthropic's has /v1/messages; GET /v1/models tells the model"
    return f"\nhint: {hint}"

"""Fetches the first bytes of a file on the hub."""

from __future__ import annotations

from typing import Any

BROKEN = ("ReadError", "RemoteProtocolError")
"""Names of errors of a lost connection in httpx and httpx2."""


def first_bytes(url: str, count: int) -> bytes:
    """The first `count` bytes of the file at the hub's `url`.

    A lost connection is retried once; a missing network fails at once. Raises the errors of
    huggingface_hub's requests.
    """
    from huggingface_hub.utils import hf_raise_for_status

    try:
        answer = _get(url, count)
    except Exception as error:
        if type(error).__name__ not in BROKEN:
            raise
        answer = _get(url, count)
    hf_raise_for_status(answer)
    return answer.content[:count]


def _get(url: str, count: int) -> Any:
    """The response, of httpx or httpx2."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers() | {"Range": f"bytes=0-{count - 1}"}
    return get_session().get(url, headers=headers, follow_redirects=True)

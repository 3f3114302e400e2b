"""The first bytes of a file on the hub."""

from __future__ import annotations


def first_bytes(url: str, count: int) -> bytes:
    """The first `count` bytes behind an address of the hub's."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = build_hf_headers() | {"Range": f"bytes=0-{count - 1}"}
    answer = get_session().get(url, headers=headers, follow_redirects=True)
    hf_raise_for_status(answer)
    return answer.content[:count]

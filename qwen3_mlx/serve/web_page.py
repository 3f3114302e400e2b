"""``GET /``: the web page with a small chat, under a content security policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.responses import Response

PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def web_page() -> Response:
    """The page, which loads nothing from anywhere else."""
    from starlette.responses import HTMLResponse

    policy = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
    policy |= {"referrer-policy": "no-referrer", "cache-control": "no-cache"}
    return HTMLResponse(PAGE.read_text("utf-8"), headers=policy)

"""Whether a redirect of an MCP server is followed: within its own origin only."""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit


def moved(url: SplitResult, place: str) -> SplitResult | None:
    """The address that `place`, a Location header, names from `url`; None if it is not followed.

    Another origin is not: the configured headers hold credentials, which it must not see. Nor is an
    address that no request may have.
    """
    try:
        there = urlsplit(urljoin(url.geturl(), place))._replace(fragment="")
        plain = place.isascii() and place.isprintable() and " " not in place
        same = plain and _origin(there) == _origin(url) and there.geturl() != url.geturl()
    except ValueError:
        return None
    return there if same else None


def path_of(url: SplitResult) -> str:
    """What a request asks the server for: path and query."""
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port. Raises `ValueError` for an invalid port."""
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)

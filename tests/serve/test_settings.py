"""Settings that could never match are set right or refused before a model is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.serve.settings import KEY, Settings


@pytest.mark.parametrize(
    ("said", "want"),
    [
        ("http://localhost:3000/", "http://localhost:3000"),
        ("HTTPS://App.Example.org", "https://app.example.org"),
        ("http://foo:80", "http://foo"),
        ("https://foo:443/", "https://foo"),
        ("http://foo:443", "http://foo:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("vscode-webview://1f2e", "vscode-webview://1f2e"),
    ],
)
def test_an_origin_is_as_browsers_write_it(said: str, want: str) -> None:
    assert Settings(origins=(said,)).rules().origins == {want}


@pytest.mark.parametrize(
    ("said", "want"),
    [
        ("foo:8080", "foo"),
        ("Foo.Local", "foo.local"),
        ("[fe80::1]:80", "fe80::1"),
        ("fe80::1", "fe80::1"),
        ("my_box", "my_box"),
    ],
)
def test_a_host_is_a_name_without_its_port(said: str, want: str) -> None:
    assert want in Settings(hosts=(said,)).rules().hosts


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        *(({"origins": (one,)}, "--origin") for one in
          ("*", "", "null", "localhost:3000", "http://a/b", "http://", "http://a:b", "http://*.a")),
        *(({"hosts": (one,)}, "--allow-host") for one in
          ("*", "", "http://foo:80", "foo/bar", "*.local", "foo:", "a b", "foo:80:90x")),
        *(({"drain_seconds": one}, "--drain") for one in (-1.0, float("nan"), float("inf"))),
        ({"prefix_gb": -1.0}, "--prefix-memory"),
    ],
    ids=str,
)  # fmt: skip
def test_what_could_never_match_is_refused(given: dict[str, Any], flag: str) -> None:
    with pytest.raises(OptionError, match=rf"{flag}: got .*, expected "):
        Settings(**given).rules()


@pytest.mark.parametrize("key", ["schlüssel", "a\nb", "a\x07b"])
def test_a_key_that_no_header_can_carry_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(KEY, key)
    with pytest.raises(OptionError, match=f"the variable {KEY} holds no key") as refused:
        Settings().rules()
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "http://127.0.0.1", "localhost:8080", "[::1]", "[::1]:80"]
)
def test_a_host_with_its_port_is_no_address(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A key was asked for, as if other machines could ask there."""
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(OptionError, match=r"^--host: got .*, expected .* alone") as refused:
        Settings(host=host).rules()
    assert "--port" in str(refused.value.hint)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%eth0", "my-mac.local", "0.0.0.0"])
def test_an_address_is_one(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv(KEY, "k")
    assert host in Settings(host=host).rules().hosts

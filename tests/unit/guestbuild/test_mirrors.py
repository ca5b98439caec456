"""apt's mirrors are asked for, never assumed."""

from __future__ import annotations

import shutil

import pytest

from rlm_wasm.guestbuild.mirrors import Mirror, configured_mirrors, parse_mirrors


def test_each_root_is_listed_once_in_apts_order() -> None:
    lines = ["http://mirror.example/debian/", "http://mirror.example/debian/", "https://sec.example/x", ""]
    assert parse_mirrors(lines, "") == (
        Mirror("http://mirror.example/debian/"),
        Mirror("https://sec.example/x/"),
    )


def test_roots_that_are_not_plain_addresses_are_skipped() -> None:
    assert parse_mirrors(["cdrom:[Debian]/", "ftp://old.example/debian/", "$(REPO_URI)"], "") == ()


def test_apts_proxy_is_used_unless_it_is_direct() -> None:
    configuration = 'Acquire::http::Proxy "http://proxy.example:3142";\nAcquire::https::Proxy "DIRECT";\n'
    assert parse_mirrors(["http://a.example/", "https://b.example/"], configuration) == (
        Mirror("http://a.example/", "http://proxy.example:3142"),
        Mirror("https://b.example/"),
    )


def test_a_pool_path_becomes_an_address_servers_accept() -> None:
    assert Mirror("http://a.example/debian/").url("pool/main/z/z_1.3+really1~2.tar.gz") == (
        "http://a.example/debian/pool/main/z/z_1.3%2breally1%7e2.tar.gz"
    )


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt here")
def test_this_machines_mirrors_are_found_without_a_network() -> None:
    assert all(mirror.root.endswith("/") for mirror in configured_mirrors())


def test_a_machine_without_apt_has_no_mirrors(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert configured_mirrors() == ()

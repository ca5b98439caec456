"""Who is let in over HTTP, by the headers of a request; and the keys that say who it is."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.mcp.admission import ANYBODY, Admission, NotAdmitted
from rlm_wasm.mcp.client_keys import ClientKeys

ANN, BOB = "a" * 32, "b" * 32
KEYS = ClientKeys.of(f"# of the team\nann {ANN}\n\n{BOB}\n", "keys.txt")
HOST = (b"host", b"localhost:8000")


def admission(keys: ClientKeys | None = KEYS) -> Admission:
    return Admission(["localhost:8000", "127.0.0.1:8000"], ["https://chat.example"], keys)


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {key}".encode()


def test_a_key_says_which_client_it_is() -> None:
    assert admission().client_of([HOST, bearer(ANN)]) == "ann"
    other = admission().client_of([HOST, (b"authorization", b"bearer " + BOB.encode())])
    assert isinstance(other, str)
    assert other.startswith("key-")
    assert BOB not in other
    assert admission(None).client_of([HOST]) == ANYBODY


@pytest.mark.threat("T-404")
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer " + ANN[:-1].encode(),
        b"Bearer " + ANN.encode() + b"a",
        b"Basic " + ANN.encode(),
        ANN.encode(),
        b"Bearer " + b"a" * 10_000,
        b"Bearer \xff\xfe",
        b"Bearer ann " + ANN.encode(),
    ],
)
def test_without_a_key_of_ours_nobody_is_let_in(authorization: bytes | None) -> None:
    headers = [HOST] if authorization is None else [HOST, (b"authorization", authorization)]
    refused = admission().client_of(headers)
    assert isinstance(refused, NotAdmitted)
    assert refused.status == 401


@pytest.mark.threat("T-405")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 421),
        ([(b"host", b"attacker.example")], 421),
        ([(b"host", b"attacker.example:8000")], 421),
        ([(b"host", b"localhost:8001")], 421),
        ([(b"host", b"localhost:8000.attacker.example")], 421),
        ([HOST, (b"origin", b"http://attacker.example")], 403),
        ([HOST, (b"origin", b"http://localhost:8000.attacker.example")], 403),
        ([HOST, (b"origin", b"null")], 403),
        ([HOST, (b"origin", b"")], 403),
        ([HOST, (b"host", b"attacker.example:8000")], 400),
        ([HOST, (b"origin", b"http://localhost:8000"), (b"origin", b"http://attacker.example")], 400),
    ],
)
def test_a_page_whose_name_leads_here_is_refused_whatever_key_it_has(
    headers: list[tuple[bytes, bytes]], status: int
) -> None:
    for made in (admission(), admission(None)):
        refused = made.client_of([*headers, bearer(ANN)])
        assert isinstance(refused, NotAdmitted)
        assert refused.status == status


@pytest.mark.parametrize(
    "origin", [b"http://localhost:8000", b"HTTP://127.0.0.1:8000", b"https://chat.example"]
)
def test_a_page_of_ours_or_one_that_was_named_may_ask(origin: bytes) -> None:
    assert admission().client_of([HOST, (b"origin", origin), bearer(ANN)]) == "ann"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "short",
        "ann",
        f"ann {ANN} more",
        f"a/b {ANN}",
        f"{ANN}\n{ANN}",
        f"ann {ANN}\nbob {ANN}",
        "\0" * 20,
    ],
)
def test_keys_that_are_none_are_told_without_them(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ClientKeys.of(text, "keys.txt")
    assert caught.value.message.startswith("keys.txt")
    assert ANN not in f"{caught.value}{caught.value.hint}"


def test_keys_are_not_kept_as_they_are() -> None:
    assert ANN not in repr(vars(KEYS))

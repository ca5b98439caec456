"""A key that cannot be shown by accident."""

from __future__ import annotations

import copy
import pickle

import pytest

from rlm_wasm.providers.secret import Secret

VALUE = "sk-live-0123456789abcdef"


@pytest.mark.parametrize(
    "show", [str, repr, ascii, "{}".format, "{!r:>40}".format, lambda secret: f"{[secret]}"]
)
def test_secret_shows_nothing_of_itself(show):
    assert "redacted" in show(Secret(VALUE))
    assert VALUE not in show(Secret(VALUE))


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_secret_cannot_be_copied_out(leave):
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        leave(Secret(VALUE))


def test_secret_has_no_dict_to_dump():
    assert not hasattr(Secret(VALUE), "__dict__")


def test_reveal_gives_the_key_back():
    assert Secret(VALUE).reveal() == VALUE


def test_redact_replaces_every_occurrence():
    assert Secret(VALUE).redact(f"a {VALUE} b {VALUE}") == "a [redacted] b [redacted]"
    assert Secret("").redact("abc") == "abc"


def test_is_in_ignores_values_too_short_to_be_keys():
    assert Secret(VALUE).is_in(f"x{VALUE}x")
    assert not Secret(VALUE).is_in(VALUE[:-1])
    assert not Secret("EMPTY").is_in("EMPTY")

"""The texts of a folder are those of paths below one, and nothing else."""

from __future__ import annotations

import json

import pytest

from rlm_wasm.errors import NoJsonForm
from rlm_wasm.folder_text import FolderText


def test_it_is_the_json_of_a_dict_and_can_be_read_again() -> None:
    texts = {"b": "2", "a/c\udcff": "ä"}
    made = FolderText.of(texts)
    assert (json.loads(made), made.files, made.type_name, made.length) == (texts, texts, "dict", 2)
    again = FolderText.recorded(str(made), "context")
    assert (again, again.files) == (made, texts)


@pytest.mark.threat("T-216")
@pytest.mark.parametrize(
    "value",
    [[], "a", {"a": 1}, {"": "x"}, {"/a": "x"}, {"a/../b": "x"}, {"a//b": "x"}, {".": "x"}, {"a\0": "x"}],
)
def test_what_is_no_folder_is_refused(value: object) -> None:
    with pytest.raises(NoJsonForm, match="is no folder"):
        FolderText.of(value)

"""What was counted is kept without loss, and a text that says too much is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.counts_text import pack_counts, unpack_counts

COMPILERS = """\
# IR level Instrumentation Flag
:ir
./src/Modules/_abc.c;_abc_init
# Func Hash:
67102
# Num Counters:
6
# Counter Values:
65
0
0
0
899
899

./src/Modules/_abc.c;_abc_module
# Func Hash:
12
# Num Counters:
1
# Counter Values:
3
# Num Value Kinds:
1
# ValueKind = IPVK_IndirectCallTarget:
0
# NumValueSites:
1
2
./src/Python/gc.c;visit_decref:1
** External Symbol **:1

PyType_GenericAlloc
# Func Hash:
7
# Num Counters:
2
# Counter Values:
0
0

"""
PACKED = (
    "./src/Modules/_abc.c\n"
    ";_abc_init\t67102\t6\t65\t0*3\t899*2\n"
    ";_abc_module\t12\t1\t3\t1\t0\t1\t2\t./src/Python/gc.c;visit_decref:1\t** External Symbol **:1\n"
    "PyType_GenericAlloc\t7\t2\t0*2\n"
)
FIELDS = st.sampled_from(["0", "1", "899", "a.c;f:7", "** External Symbol **:1"])


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_a_function_is_a_line_and_equal_counts_are_one_field() -> None:
    assert pack_counts(COMPILERS) == PACKED
    assert said(unpack_counts(PACKED)) == said(COMPILERS)


@given(st.lists(st.tuples(st.sampled_from(["a.c;f", "a.c;g", "b.c;f", "h"]), st.lists(FIELDS, min_size=1))))
def test_nothing_is_lost(functions: list[tuple[str, list[str]]]) -> None:
    text = ":ir\n" + "".join("\n".join([name, *fields]) + "\n\n" for name, fields in functions)
    assert said(unpack_counts(pack_counts(text))) == said(text)


@pytest.mark.parametrize("text", ["", "name\n1\n", ":fe\nname\n1\n"])
def test_counts_of_another_kind_are_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="not in the form"):
        pack_counts(text)


def test_a_field_that_would_be_read_as_a_run_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"looks like a run: odd\*3"):
        pack_counts(":ir\nname\n1\nodd*3\n")


def test_a_line_that_stands_for_too_much_is_refused() -> None:
    with pytest.raises(ArtifactError, match="line 2 stands for more"):
        unpack_counts("short\t1\nname\t0*9999999\n")

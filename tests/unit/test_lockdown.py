"""Grades of a lock-down: each stronger one has every layer of the weaker ones."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.lockdown import LAYERS, LAYERS_OF, WORKER_LAYERS, Grade, grade_of, weakest

NAMESPACES = {"user", "pid", "net", "mount", "ipc", "uts", "cgroup"}


def test_each_grade_has_every_layer_of_the_weaker_ones_and_more():
    for stronger, weaker in itertools.pairwise(LAYERS_OF.values()):
        assert set(stronger) > set(weaker)
    assert LAYERS_OF[Grade.FULL] == LAYERS
    assert set(LAYERS) - set(LAYERS_OF[Grade.NAMESPACED]) == {"user namespace"}
    lost = {f"{kind} namespace" for kind in NAMESPACES} | {"empty root"}
    assert set(LAYERS) - set(LAYERS_OF[Grade.FILTERED]) == lost


def test_what_each_worker_gives_up_by_itself_is_in_every_grade():
    for layers in LAYERS_OF.values():
        assert set(WORKER_LAYERS) <= set(layers)


@pytest.mark.parametrize("grade", LAYERS_OF)
def test_a_grade_is_its_layers_and_one_less_is_a_weaker_one(grade):
    assert grade_of(LAYERS_OF[grade]) is grade
    for missing in LAYERS_OF[grade]:
        found = grade_of(set(LAYERS_OF[grade]) - {missing})
        assert list(Grade).index(found) > list(Grade).index(grade)


@given(st.sets(st.sampled_from(LAYERS)))
def test_nothing_is_called_by_a_grade_of_which_it_lacks_a_layer(applied):
    grade = grade_of(applied)
    assert grade is not Grade.NONE
    if grade in LAYERS_OF:
        assert applied >= set(LAYERS_OF[grade])
    else:
        assert not applied >= set(LAYERS_OF[Grade.FILTERED])


def test_the_weakest_of_several_is_the_one_with_the_fewest_layers():
    assert weakest([]) is None
    assert weakest([Grade.FILTERED, Grade.FULL, Grade.NAMESPACED]) is Grade.FILTERED
    assert weakest(Grade) is Grade.NONE

"""Which layers a policy requires, by a word or by name, and the policy `container`."""

from __future__ import annotations

import tomllib

import pytest

from rlm_wasm.errors import PolicyError
from rlm_wasm.lockdown import LAYERS, LAYERS_OF, Grade
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml
from tests.support import container_policy

REQUIRED = "require_lockdown = true"


def test_container_is_strict_but_for_the_one_key():
    strict, container = (Policy.builtin(name).to_mapping() for name in ("strict", "container"))
    assert container["sandbox"].pop("lockdown") == "filtered"
    assert container == strict
    # The comments too: it is made from strict.
    assert container_policy.PAGE.read_text(encoding="utf-8") == container_policy.page()


@pytest.mark.threat("T-101")
def test_strict_requires_every_layer_and_container_all_that_need_no_namespace():
    assert Policy.builtin("strict").required_layers() == LAYERS
    assert Policy.builtin("container").required_layers() == LAYERS_OF[Grade.FILTERED]
    assert Policy.builtin("standard").required_layers() == ()


@pytest.mark.parametrize(
    ("value", "layers"),
    [
        ('"full"', LAYERS),
        ('"namespaced"', LAYERS_OF[Grade.NAMESPACED]),
        ('"filtered"', LAYERS_OF[Grade.FILTERED]),
        ('["seccomp", "landlock"]', ("seccomp", "landlock")),
    ],
)
def test_a_word_or_names_say_which_layers_are_required(edited, value, layers):
    policy = Policy.load(edited((REQUIRED, f"{REQUIRED}\nlockdown = {value}")))
    assert policy.required_layers() == layers
    assert Policy.from_mapping(tomllib.loads(to_toml(policy))) == policy


@pytest.mark.threat("T-101")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"most"', 'must be "full", "namespaced", "filtered", or an array of layers'),
        ('"partial"', 'must be "full", "namespaced", "filtered", or an array of layers'),
        ("true", 'must be "full", "namespaced", "filtered", or an array of layers'),
        ('["seccomp", 1]', 'must be "full", "namespaced", "filtered", or an array of layers'),
        ("[]", "must name a layer; require_lockdown = false is how none is required"),
        ('["secomp"]', "names what is no layer; did you mean 'seccomp'?"),
        ('["moat"]', "names what is no layer; `rlm-wasm doctor` shows their names"),
        ('["seccomp", "seccomp"]', "names a layer twice"),
        ('["{0.__class__}"]', "names what is no layer; `rlm-wasm doctor` shows their names"),
    ],
)
def test_what_names_no_layers_is_told_by_its_line_unquoted(edited, problems_of, line_of, value, message):
    found = problems_of(edited((REQUIRED, f"{REQUIRED}\nlockdown = {value}")))
    assert found == [f"p.toml:{line_of(REQUIRED) + 1}: sandbox.lockdown: {message}"]


@pytest.mark.threat("T-101")
@pytest.mark.parametrize("value", ['"full"', '"filtered"', '["seccomp"]'])
def test_layers_that_nothing_requires_contradict(edited, problems_of, line_of, value):
    path = edited((REQUIRED, f"require_lockdown = false\nlockdown = {value}"))
    (problem,) = problems_of(path)
    assert problem.startswith(
        f"p.toml:{line_of(REQUIRED) + 1}: sandbox.lockdown: says which layers must stand"
    )


def test_a_name_of_any_length_costs_nothing():
    data = Policy.builtin("strict").to_mapping()
    data["sandbox"]["lockdown"] = ["s" * 1_000_000]
    with pytest.raises(PolicyError, match="names what is no layer"):
        Policy.from_mapping(data)

"""What a loaded policy hands out."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import ValidationError

from rlm_wasm import limits
from rlm_wasm.errors import PolicyError
from rlm_wasm.limits import ModelPrice
from rlm_wasm.policy import sections
from rlm_wasm.policy.builtin import builtin_names
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml


@pytest.fixture
def strict() -> Policy:
    return Policy.builtin("strict")


def test_there_are_three_built_in_policies():
    assert builtin_names() == ("container", "standard", "strict")


@pytest.mark.parametrize("name", builtin_names())
def test_built_in_policy_is_valid_and_found_by_name_and_by_path(name):
    by_name = Policy.open(name)
    assert by_name == Policy.builtin(name)


def test_file_named_like_a_built_in_policy_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "strict").write_text("not a policy")
    monkeypatch.chdir(tmp_path)
    assert Policy.open("strict") == Policy.builtin("strict")
    with pytest.raises(PolicyError, match=r"^strict:1: is not valid TOML"):
        Policy.open("./strict")


@pytest.mark.parametrize("name", ["../policies/strict", "", "strict.toml", "\x1b[2J"])
def test_unknown_built_in_name_is_refused_with_the_known_ones(name):
    with pytest.raises(PolicyError) as caught:
        Policy.builtin(name)
    assert caught.value.message.isprintable()
    assert caught.value.hint == "there are: container, standard, strict"


def test_strict_gives_less_than_standard_of_everything(strict):
    """Whoever moves from strict to standard loses no room anywhere."""
    standard = Policy.builtin("standard")
    for give in ("cell_limits", "boundary_limits", "observation_limits", "budget_limits", "run_limits"):
        small = dataclasses.asdict(getattr(strict, give)())
        large = dataclasses.asdict(getattr(standard, give)())
        assert [key for key in small if small[key] > large[key]] == []
    assert strict.session_limits().memory_bytes_max < standard.session_limits().memory_bytes_max


@pytest.mark.parametrize(
    ("section", "dataclass"),
    [
        (sections.CellSection, limits.CellLimits),
        (sections.TenantsSection, limits.TenantLimits),
        (sections.RunSection, limits.RunLimits),
        (sections.BudgetSection, limits.BudgetLimits),
        (sections.BoundarySection, limits.BoundaryLimits),
        (sections.QuerySection, limits.QueryLimits),
        (sections.PriceSection, limits.ModelPrice),
    ],
)
def test_table_has_exactly_the_limits_of_the_core(section, dataclass):
    assert set(section.model_fields) == {field.name for field in dataclasses.fields(dataclass)}


def test_every_limit_in_the_file_reaches_the_core_unchanged(strict):
    data = strict.to_mapping()
    for section, give in {
        "cell": strict.cell_limits,
        "tenants": strict.tenant_limits,
        "run": strict.run_limits,
        "budget": strict.budget_limits,
        "boundary": strict.boundary_limits,
        "query": strict.query_limits,
    }.items():
        assert dataclasses.asdict(give()) == data[section]
    for section, facts in {
        "sandbox": strict.session_limits(),
        "observation": strict.observation_limits(),
    }.items():
        for key, value in dataclasses.asdict(facts).items():
            # The stream of a seed is the run's to number, not the file's.
            assert value == (0 if key == "stream" else data[section][key])


def test_no_key_of_any_table_has_a_default_except_endpoints_layers_and_what_one_tenant_may_have():
    """An absent limit is never filled in silently; of the layers all are meant unless some are named.

    Without a table of tenants there is one, and it has everything.
    """
    tables = [*sections.Section.__subclasses__()]
    optional = {
        (table.__name__, name)
        for table in tables
        for name, field in table.model_fields.items()
        if not field.is_required()
    }
    assert optional == {
        ("ProvidersSection", "openai"),
        ("Policy", "providers"),
        ("Policy", "tenants"),
        ("SandboxSection", "lockdown"),
    }


def test_every_number_has_a_ceiling():
    for table in sections.Section.__subclasses__():
        for name, field in table.model_fields.items():
            if field.annotation is int:
                bounds = [type(bound).__name__ for bound in field.metadata]
                text = repr(field.metadata)
                assert "le=" in text or "lt=" in text, f"{table.__name__}.{name}: {bounds}"


def test_policy_cannot_be_changed(strict):
    with pytest.raises(ValidationError):
        strict.cell.fuel_max = 1


@pytest.mark.parametrize("name", builtin_names())
def test_shown_policy_reads_back_as_the_same_policy(name, tmp_path):
    policy = Policy.builtin(name)
    (tmp_path / "shown.toml").write_text(to_toml(policy))
    assert Policy.load(tmp_path / "shown.toml") == policy


def test_shown_policy_escapes_what_toml_must_escape(strict, tmp_path):
    odd = 'script:a "b" \\ é\u202e.toml'
    policy = strict.with_models(root=odd)
    text = to_toml(policy)
    assert "\u202e" not in text
    (tmp_path / "shown.toml").write_text(text, encoding="utf-8")
    assert Policy.load(tmp_path / "shown.toml") == policy


def test_price_of_a_known_model_is_the_policys(strict):
    assert strict.price("openai:gpt-5-mini") == ModelPrice(250_000, 2_000_000)


def test_price_of_a_script_is_nothing(strict):
    assert strict.price("script:any.toml") == ModelPrice(0, 0)


def test_price_of_an_unknown_model_is_an_error_that_says_what_to_add(strict):
    with pytest.raises(PolicyError, match='no price for the model "openai:other"') as caught:
        strict.price("openai:other")
    assert caught.value.hint == 'add the table [models.prices."openai:other"] to the policy'


def test_prices_are_the_models_a_run_may_ask_and_no_others(strict):
    assert set(strict.prices()) == {"openai:gpt-5", "openai:gpt-5-mini"}
    assert set(strict.with_models(root="script:a.toml").prices()) == {
        "script:a.toml",
        "openai:gpt-5",
        "openai:gpt-5-mini",
    }


def test_root_override_alone_replaces_both_models(strict):
    models = strict.with_models(root="script:a.toml").models
    assert (models.root, models.sub) == ("script:a.toml", "script:a.toml")


def test_sub_override_alone_leaves_the_root(strict):
    models = strict.with_models(sub="script:a.toml").models
    assert (models.root, models.sub) == ("openai:gpt-5", "script:a.toml")


def test_both_overrides_are_kept_apart(strict):
    models = strict.with_models(root="script:a.toml", sub="openai:gpt-5").models
    assert (models.root, models.sub) == ("script:a.toml", "openai:gpt-5")


def test_no_override_changes_nothing(strict):
    assert strict.with_models() is strict


@pytest.mark.parametrize(
    "spec", ["", "gpt-5", "openai:", ":x", "openai:a\nb", "openai: x", "OpenAI:x", "openai:new"]
)
def test_bad_override_is_refused(strict, spec):
    with pytest.raises(PolicyError, match=r"^model override: models\.root: "):
        strict.with_models(root=spec)

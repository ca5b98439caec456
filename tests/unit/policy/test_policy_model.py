"""What a loaded policy hands out."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import pytest

from rlm_wasm.errors import PolicyError
from rlm_wasm.limits import (
    CellLimits,
    Count,
    ModelPrice,
    PermitLimits,
    Range,
    SessionLimits,
    ToolCaps,
    ceilings,
    nothing_but,
)
from rlm_wasm.policy.builtin import builtin_names
from rlm_wasm.policy.check import checked
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.provider_tables import ProviderTable, RequestSettings
from rlm_wasm.policy.render import to_toml
from rlm_wasm.policy.tables import PriceTable, Tables


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
    for table in ("cell", "boundary", "budget", "run"):
        small = dataclasses.asdict(getattr(strict, table))
        large = dataclasses.asdict(getattr(standard, table))
        assert [key for key in small if small[key] > large[key]] == []
    assert strict.observation.bytes_max <= standard.observation.bytes_max
    assert strict.observation.variables_max < standard.observation.variables_max
    assert strict.session_limits().memory_bytes_max < standard.session_limits().memory_bytes_max


def tables(kind: type) -> Iterator[type]:
    """Yield a table's class and those of the tables in it, however deep."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        yield from _tables_in(hint)


def _tables_in(hint: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield from tables(hint)
    for argument in typing.get_args(hint):
        yield from _tables_in(argument)


def test_every_table_is_found() -> None:
    assert len(set(tables(Tables))) == 23
    assert {PriceTable, ProviderTable} <= set(tables(Tables))


def test_a_worker_is_told_of_its_table_what_stands_there_and_no_more(strict: Policy) -> None:
    told = dataclasses.asdict(strict.session_limits())
    # The stream of a seed is the run's to number, not the file's.
    assert told.pop("stream") == 0
    assert told.items() <= strict.to_mapping()["sandbox"].items()
    assert set(told) < {field.name for field in dataclasses.fields(strict.sandbox)}
    kinds = typing.get_type_hints(type(strict.sandbox))
    for name, kind in typing.get_type_hints(SessionLimits).items():
        assert name == "stream" or kind == kinds[name]


def test_permits_are_those_of_the_table_and_a_tenants_part_of_them(strict: Policy) -> None:
    caps = {name: value for name, value in strict.to_mapping()["permits"].items() if name != "weights"}
    part = strict.tenant_limits().share_of(strict.permits.total_max)
    assert strict.permit_limits() == PermitLimits(**caps, tenant_max=part)


def test_no_key_of_any_table_has_a_default_except_endpoints_layers_inputs_and_what_one_tenant_may_have():
    """An absent limit is never filled in silently; of the layers all are meant unless some are named.

    What a run may do beyond its budget's end came later than the files of some, and is off there; how long a
    hook of the caller's may take is 10 seconds there.
    Without a table of tenants there is one, and it has everything. Without a proxy none is used; what an
    endpoint's template takes is no limit, nor is where a price is from. What reads inputs before there is a
    guest, and what turns documents into text, has numbers of its own where a policy says none, and so has
    what is told beside the system prompt, which is nothing unless a policy says it. Without the name of an
    image there are no packages.
    What crosses over MCP has numbers of its own where a policy says none.
    Without a table of tools there are none; a tool without caps of its own has those of all.
    """
    optional = {
        (table.__name__, field.name)
        for table in tables(Tables)
        for field in dataclasses.fields(table)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    assert optional == {
        ("Tables", "providers"),
        ("Tables", "inputs"),
        ("InputLimits", "document_bytes_max"),
        ("InputLimits", "document_memory_bytes_max"),
        ("InputLimits", "document_fuel_max"),
        ("InputLimits", "document_wall_ms_max"),
        ("Tables", "cache"),
        ("Tables", "guidance"),
        ("GuidanceTable", "instructions"),
        ("GuidanceTable", "examples"),
        ("Tables", "tenants"),
        ("Tables", "tools"),
        ("Tables", "mcp"),
        ("ToolsTable", "tenants"),
        ("ToolsTable", "caps"),
        *(("ToolCaps", field.name) for field in dataclasses.fields(ToolCaps)),
        ("SandboxTable", "lockdown"),
        ("RunLimits", "repeats_max"),
        ("RunLimits", "compact_percent"),
        ("RunLimits", "summaries_max"),
        ("RunLimits", "hook_ms_max"),
        ("RunLimits", "hook_reason_bytes_max"),
        ("ModelsTable", "windows"),
        ("PriceTable", "window_tokens"),
        ("RunLimits", "reserve_percent"),
        ("QueryLimits", "output_tokens_retry_max"),
        ("ModelsTable", "fallback"),
        ("ModelsTable", "sub_up_to_bytes"),
        ("SandboxTable", "image"),
        ("ModelsTable", "settings"),
        # Which keys a provider must have depends on its kind: `policy.provider_rules` says so.
        *(("ProviderTable", field.name) for field in dataclasses.fields(ProviderTable)),
        *(("RequestSettings", field.name) for field in dataclasses.fields(RequestSettings)),
        ("PriceTable", "source"),
        ("PriceTable", "endpoint"),
    }


def test_every_number_has_a_floor_and_a_ceiling():
    numbers = 0
    for table in tables(Tables):
        for name, hint in typing.get_type_hints(table, include_extras=True).items():
            assert hint is not int, f"{table.__name__}.{name}"
            if typing.get_origin(hint) is Annotated and typing.get_args(hint)[0] is int:
                assert [type(mark) for mark in hint.__metadata__] == [Range]
                numbers += 1
    assert numbers > 60


@pytest.mark.parametrize(
    "bounds", [{}, {"gt": 0}, {"le": 5}, {"gt": 0, "ge": 1, "le": 5}, {"gt": 0, "le": 5, "lt": 6}]
)
def test_a_range_without_one_floor_and_one_ceiling_cannot_be_written(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="one floor and one ceiling"):
        Range(**bounds)


def test_a_ceiling_is_the_highest_number_that_a_policy_holds(strict: Policy) -> None:
    data, tried = strict.to_mapping(), 0
    for name in data:
        for key, most in ceilings(type(getattr(strict, name))).items():
            checked(Tables, data | {name: data[name] | {key: most}}, "p", {})
            with pytest.raises(PolicyError, match=rf"^p: {name}\.{key}: must be (at most|less than) \d+ "):
                checked(Tables, data | {name: data[name] | {key: most + 1}}, "p", {})
            tried += 1
    assert tried > 60


@dataclasses.dataclass(frozen=True, slots=True)
class CellWithNaps(CellLimits):
    naps_max: Count


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TablesWithNaps(Tables):
    cell: CellWithNaps


def test_a_limit_is_added_in_one_place(strict: Policy) -> None:
    """From its field alone: it is required, known to who misspells it, bounded, shown and handed out."""

    def problems(**naps: object) -> str:
        with pytest.raises(PolicyError) as caught:
            _with_naps(strict, **naps)
        return caught.value.message

    assert problems() == "p: cell.naps_max: is missing; no limit or grant has a default"
    assert problems(nap_max=1) == "p: cell.nap_max: unknown key; did you mean `naps_max`?"
    assert problems(naps_max=0) == "p: cell.naps_max: must be greater than 0 (got 0)"
    assert problems(naps_max=10_000_001) == "p: cell.naps_max: must be at most 10000000 (got 10000001)"
    assert problems(naps_max="1") == "p: cell.naps_max: must be an integer (got a string)"
    found = _with_naps(strict, naps_max=7)
    assert found.cell == CellWithNaps(**dataclasses.asdict(strict.cell), naps_max=7)
    assert "\nnaps_max = 7\n" in to_toml(found)


def test_limits_that_no_policy_gives_have_nothing_but_what_is_said() -> None:
    """So a session of our own has nothing of a limit that was added since, until somebody gives it some."""
    made = nothing_but(CellWithNaps, fuel_max=5)
    assert dataclasses.asdict(made) == {field.name: 0 for field in dataclasses.fields(made)} | {"fuel_max": 5}
    with pytest.raises(TypeError):
        nothing_but(CellLimits, fuel=5)


def _with_naps(policy: Policy, **naps: object) -> TablesWithNaps:
    data = policy.to_mapping()
    return checked(TablesWithNaps, data | {"cell": data["cell"] | naps}, "p", {})


def test_policy_cannot_be_changed(strict: Policy) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        strict.cell.fuel_max = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        strict.cell = strict.cell  # type: ignore[misc]
    with pytest.raises(TypeError):
        strict.models.prices["openai:gpt-5"] = ModelPrice(0, 0)  # type: ignore[index]
    with pytest.raises(TypeError):
        strict.permits.weights["me"] = 10_000  # type: ignore[index]
    assert isinstance(strict.models.child, tuple)


def test_the_lists_and_mappings_that_a_policy_was_made_of_are_not_its_own(strict: Policy) -> None:
    data = strict.to_mapping()
    policy = Policy.from_mapping(data)
    data["models"]["child"].append("openai:other")
    data["models"]["prices"].clear()
    data["permits"]["weights"]["me"] = 10_000
    policy.to_mapping()["models"]["prices"].clear()
    assert policy == strict


FREE_FUEL = {"fuel_max": 0}


@pytest.mark.parametrize(
    "make",
    [
        lambda policy: Policy(**policy.to_mapping() | {"cell": policy.to_mapping()["cell"] | FREE_FUEL}),
        lambda policy: policy.replace(cell=FREE_FUEL),
        lambda policy: dataclasses.replace(policy, cell=dataclasses.replace(policy.cell, fuel_max=0)),
        lambda policy: Policy.from_mapping(dataclasses.asdict(policy.cell)),
        lambda policy: Policy(**{name: None for name in policy.to_mapping()}),
    ],
)
def test_no_way_to_make_a_policy_leaves_out_the_check(
    strict: Policy, make: Callable[[Policy], Policy]
) -> None:
    with pytest.raises(PolicyError):
        make(strict)


@pytest.mark.parametrize(
    "name",
    ["model_construct", "model_copy", "construct", "copy", "parse_obj", "model_validate"],
)
def test_the_doors_that_a_model_of_a_library_would_have_are_not_there(name: str) -> None:
    assert not hasattr(Policy, name)


@pytest.mark.parametrize("name", builtin_names())
@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        dataclasses.replace,
        lambda policy: pickle.loads(pickle.dumps(policy)),
        lambda policy: policy.replace(),
        lambda policy: Policy(
            **{table.name: getattr(policy, table.name) for table in dataclasses.fields(policy)}
        ),
    ],
)
def test_a_policy_made_of_another_is_that_policy(name: str, again: Callable[[Policy], Policy]) -> None:
    policy = Policy.builtin(name)
    found = again(policy)
    assert found == policy
    assert type(found.cell) is CellLimits


def test_a_copy_or_a_pickle_is_checked_when_it_is_made(strict: Policy) -> None:
    make, (data,) = strict.__reduce__()
    data["cell"]["fuel_max"] = -1
    with pytest.raises(PolicyError, match=r"^policy: cell\.fuel_max: must be greater than 0 \(got -1\)"):
        make(data)


def test_replace_changes_the_keys_it_names_and_no_others(strict: Policy) -> None:
    changed = strict.replace(cell={"fuel_max": 10**9}, budget={"calls_max": 3, "fuel_max": 10**10})
    expected = strict.to_mapping()
    expected["cell"]["fuel_max"] = 10**9
    expected["budget"] |= {"calls_max": 3, "fuel_max": 10**10}
    assert changed.to_mapping() == expected
    assert strict == Policy.builtin("strict")


def test_replace_changes_a_table_within_a_table_by_its_keys(strict: Policy) -> None:
    changed = strict.replace(providers={"openai": {"base_url": "https://example.org/v1"}})
    assert changed.providers["openai"] == dataclasses.replace(
        strict.providers["openai"], base_url="https://example.org/v1"
    )


def test_replace_puts_weights_and_prices_in_the_place_of_those_there(strict: Policy) -> None:
    first = strict.replace(permits={"weights": {"a": 2}})
    assert first.replace(permits={"weights": {"b": 3}}).permits.weights == {"b": 3}
    with pytest.raises(PolicyError, match=r"models\.root: has no price"):
        strict.replace(models={"prices": {}, "root": "openai:other"})


def test_replace_takes_what_another_policy_has(strict: Policy) -> None:
    standard = Policy.builtin("standard")
    changed = strict.replace(models={"prices": standard.models.prices, "child": standard.models.child})
    assert changed.models.prices == standard.models.prices
    assert changed.models.child == standard.models.child


def test_replace_with_none_takes_out_what_may_be_absent_and_nothing_else(strict: Policy) -> None:
    assert strict.replace(tenants=None).tenants is None
    assert Policy.builtin("container").replace(sandbox={"lockdown": None}).sandbox.lockdown is None
    scripted = strict.with_models(root="script:a.toml")
    assert scripted.replace(providers={"openai": None}).providers == {}
    with pytest.raises(PolicyError) as caught:
        strict.replace(cell=None, run={"depth_max": None})
    assert caught.value.message.splitlines() == [
        "policy.replace: cell: must be a table (got nothing)",
        "policy.replace: run.depth_max: must be an integer (got nothing)",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": {"fuel_max": -5}}, "cell.fuel_max: must be greater than 0 (got -5)"),
        ({"cell": {"fuel_maxx": 5}}, "cell.fuel_maxx: unknown key; did you mean `fuel_max`?"),
        ({"cel": {"fuel_max": 5}}, "cel: unknown table; did you mean `cell`?"),
        ({"cell": 5}, "cell: must be a table (got 5)"),
        ({"cell": {"fuel_max": 1.5}}, "cell.fuel_max: must be an integer (got 1.5)"),
        ({"replace": {}}, "replace: unknown table"),
        (
            {"cell": {"wall_ms_max": 86_400_000}},
            "cell.wall_ms_max: must be at most run.wall_ms_max: a cell runs inside a run "
            "(got 86400000, which is over 900000)",
        ),
    ],
)
def test_what_replace_refuses_is_told_by_its_key(
    strict: Policy, changes: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        strict.replace(**changes)
    assert caught.value.message == f"policy.replace: {message}"


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


@pytest.mark.parametrize("name", ["", "Numpy", "../numpy", "numpy\n", "a" * 65, "-x", 7, None, ["numpy"]])
def test_an_image_has_a_plain_name(strict: Policy, name: object) -> None:
    assert strict.sandbox.image == "base"
    assert strict.replace(sandbox={"image": "numpy"}).sandbox.image == "numpy"
    with pytest.raises(PolicyError, match=r"sandbox\.image"):
        strict.replace(sandbox={"image": name})

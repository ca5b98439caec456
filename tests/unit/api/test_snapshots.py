"""Images of sessions through the façade: forked, saved, loaded; their keys; replays to the same bytes."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from rlm_wasm import Policy, Runtime, Sandbox
from rlm_wasm.artifacts import snapshot_file
from rlm_wasm.errors import ArtifactError, PolicyError, UsageError
from tests.support.policy_file import write_policy

pytestmark = [pytest.mark.anyio, pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]

# Loaded now, with its libraries: what they map is nothing that a test leaves behind.
assert snapshot_file
VARIABLE = "RLM_WASM_TEST_IMAGE_KEY"
# Everything a guest can draw from: reseeded modules, entropy by itself, clocks, hashes, addresses.
DRAW = (
    "import os, random, secrets, time, uuid, tempfile\n"
    "drawn = [random.random(), os.urandom(8).hex(), secrets.token_hex(8), str(uuid.uuid4()), "
    "random.Random().random(), time.time_ns(), time.monotonic_ns(), hash('a'), id(object())]\n"
    "print(drawn)"
)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy.load(write_policy(tmp_path / "keyed.toml", sandbox={"snapshot_key_env": VARIABLE}))


def seeded(tmp_path: Path, seed: int) -> Policy:
    changed = {"entropy": "seeded", "seed": seed}
    return Policy.load(write_policy(tmp_path / f"seed-{seed}.toml", sandbox=changed))


async def draws(policy: Policy, path: Path) -> list[tuple[str, int]]:
    """Draw in a session, in two forks of it, and in a fork of the saved image; with the fuel each took."""
    key = bytes(32)
    seen: list[tuple[str, int]] = []
    async with Sandbox(policy) as box, await box.session() as first:

        async def draw(*cells: str) -> None:
            async with await box.session(snapshot=image) as session:
                for cell in cells:
                    result = await session.exec(cell)
                    seen.append((result.stdout, result.fuel_used))

        for _ in range(2):
            result = await first.exec(DRAW)
            seen.append((result.stdout, result.fuel_used))
        image = await first.snapshot()
        await draw(DRAW, DRAW)
        await draw(DRAW)
        image.save(path, key=key)
        image = box.load_snapshot(path, key=key)
        await draw(DRAW, "print(drawn)", DRAW)
    return seen


async def test_a_seeded_session_its_forks_and_a_loaded_image_replay_to_the_same_bytes(tmp_path: Path) -> None:
    policy = seeded(tmp_path, 20261122)
    first, second = [await draws(policy, tmp_path / f"{n}.image") for n in range(2)]
    assert first == second
    texts = [text for text, _ in first]
    assert len(set(texts)) == len(texts) - 1, "only the cell that prints what was drawn before repeats"
    assert await draws(seeded(tmp_path, 7), tmp_path / "other.image") != first


async def test_a_loaded_image_goes_on_as_a_fork_of_the_live_one(tmp_path: Path) -> None:
    policy = seeded(tmp_path, 5)
    async with Sandbox(policy) as box, await box.session() as session:
        await session.exec(DRAW)
        image = await session.snapshot()
        image.save(tmp_path / "image", key=bytes(32))
        async with await box.session(snapshot=image) as fork:
            live = [await fork.exec(DRAW) for _ in range(3)]
    async with Sandbox(policy) as box, await box.session():  # a session's stream goes by its number
        loaded = box.load_snapshot(tmp_path / "image", key=bytes(32))
        async with await box.session(snapshot=loaded) as fork:
            later = [await fork.exec(DRAW) for _ in range(3)]
    assert [(r.stdout, r.fuel_used) for r in live] == [(r.stdout, r.fuel_used) for r in later]


async def test_without_a_seed_forks_of_one_image_draw_differently(strict: Policy) -> None:
    async with Sandbox(strict) as box, await box.session() as session:
        image = await session.snapshot()
        drawn = set()
        for _ in range(3):
            async with await box.session(snapshot=image) as fork:
                drawn.add((await fork.exec("import random\nrandom.random()")).result)
    assert len(drawn) == 3


async def test_the_policys_key_saves_and_loads(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, secrets.token_hex(32))
    async with Sandbox(policy) as box:
        async with await box.session() as session:
            await session.exec("x = 41")
            (await session.snapshot()).save(tmp_path / "image")
        async with await box.load_snapshot(tmp_path / "image").session() as session:
            assert (await session.exec("x + 1")).result == "42"
        with pytest.raises(ArtifactError):
            box.load_snapshot(tmp_path / "image", key=bytes(32))
        monkeypatch.setenv(VARIABLE, secrets.token_hex(32))
        with pytest.raises(ArtifactError):
            box.load_snapshot(tmp_path / "image")


@pytest.mark.parametrize("value", [None, "", "short", "g" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
async def test_a_variable_without_a_key_saves_nothing(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)
    async with Sandbox(policy) as box, await box.session() as session:
        image = await session.snapshot()
        with pytest.raises(UsageError, match=VARIABLE) as refused:
            image.save(tmp_path / "image")
        assert not value or value not in str(refused.value)
    assert not (tmp_path / "image").exists()


async def test_a_policy_without_a_key_asks_for_one(strict: Policy, tmp_path: Path) -> None:
    async with Sandbox(strict) as box, await box.session() as session:
        with pytest.raises(UsageError, match="snapshot_key_env"):
            (await session.snapshot()).save(tmp_path / "image")


async def test_a_policy_that_holds_the_key_itself_is_refused(tmp_path: Path) -> None:
    key = secrets.token_hex(32)
    with pytest.raises(PolicyError, match="never the key itself") as refused:
        write_policy(tmp_path / "bad.toml", sandbox={"snapshot_key_env": f"{key} "})
    assert key not in str(refused.value)


@pytest.mark.parametrize("isolation", ["inline", "shared", "session"])
async def test_an_image_is_its_tenants_alone_whatever_the_isolation(isolation: str, tmp_path: Path) -> None:
    changed = {"isolation": isolation, "require_lockdown": False}
    policy = Policy.load(write_policy(tmp_path / "p.toml", sandbox=changed))
    path = tmp_path / "saved.image"
    async with Sandbox(policy) as box, await box.session(tenant="ours") as session:
        await session.exec("secret = 1")
        image = await session.snapshot()
        image.save(path, key=bytes(32))
        for tenant in ("", "theirs"):
            with pytest.raises(UsageError, match="another tenant"):
                await box.session(snapshot=image, tenant=tenant)
            with pytest.raises(ArtifactError, match="another tenant"):
                box.load_snapshot(path, key=bytes(32), tenant=tenant)
        async with await box.session(snapshot=image, tenant="ours") as fork:
            assert (await fork.exec("secret")).result == "1"


async def test_a_run_of_one_tenant_does_not_begin_from_anothers_image(tmp_path: Path, strict: Policy) -> None:
    async with Sandbox(strict) as box, await box.session(tenant="ours") as session:
        image = await session.snapshot()
        model = tmp_path / "model.toml"
        model.write_text("[[reply]]\nrole = 'root'\ntext = 'no code'\n")
        async with Runtime(strict, model=f"script:{model}") as runtime:
            with pytest.raises(UsageError, match="another tenant"):
                await runtime.ask("?", snapshot=image, tenant="theirs")


async def test_a_runtime_loads_a_snapshot_by_itself_and_forks_it_in_its_runs(
    tmp_path: Path, strict: Policy
) -> None:
    model = tmp_path / "model.toml"
    model.write_text("[[reply]]\nrole = 'root'\ntext = '''\n```repl\nFINAL(f(len(context)))\n```'''\n")
    key = secrets.token_bytes(32)
    async with Sandbox(strict) as box, box.session(tenant="t") as session:
        await session.exec("def f(n): return n * 7")
        (await session.snapshot()).save(tmp_path / "saved", key=key)
    runtime = Runtime(strict, model=f"script:{model}")
    snapshot = runtime.load_snapshot(tmp_path / "saved", key=key, tenant="t")
    async with runtime:
        for text in ("six   ", "ab"):
            result = await runtime.ask("?", text, snapshot=snapshot, tenant="t")
            assert result.answer == str(7 * len(text))
    with pytest.raises(UsageError, match="a runtime has loaded"):
        snapshot.session()
    with pytest.raises(ArtifactError):
        runtime.load_snapshot(tmp_path / "saved", key=key)


@pytest.mark.threat("T-260")
async def test_a_snapshot_starts_no_session_of_another_image(tmp_path: Path, strict: Policy) -> None:
    model = tmp_path / "model.toml"
    model.write_text("[[reply]]\nrole = 'root'\ntext = 'no code'\n")
    other = strict.replace(sandbox={"image": "numpy"})
    async with Sandbox(strict) as box, Sandbox(other) as other_box, await box.session() as session:
        snapshot = await session.snapshot()
        assert snapshot.image == "base"
        with pytest.raises(UsageError, match=r"of the image base, and sandbox\.image is numpy"):
            await other_box.session(snapshot=snapshot)
        async with Runtime(other, model=f"script:{model}") as runtime:
            with pytest.raises(UsageError, match=r"of the image base, and sandbox\.image is numpy"):
                await runtime.ask("?", snapshot=snapshot)

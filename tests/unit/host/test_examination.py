"""What `rlm-wasm doctor` says about locked-down workers is what a worker tried and met."""

from __future__ import annotations

import re

import pytest

from rlm_wasm.errors import HostExhausted
from rlm_wasm.host import examination
from rlm_wasm.jail.lockdown import probe
from rlm_wasm.jail.lockdown.syscalls import RULES
from rlm_wasm.lockdown import LAYERS
from rlm_wasm.protocol.zygote_reports import ZygoteGone
from tests.support.command_line import ROOT, document, rlm_wasm
from tests.support.descriptors import descriptors_left
from tests.support.machine_grade import HERE

pytestmark = [pytest.mark.guest]


@pytest.mark.threat("T-055")
def test_a_worker_made_for_the_look_is_locked_and_gets_nowhere() -> None:
    found = examination.examine()
    assert found.locked
    assert tuple(f.layer for f in found.layers) == LAYERS
    assert found.grade is HERE
    assert {each.name: each.outcome for each in found.attempts} == dict.fromkeys(probe.ATTEMPTS, "SIGSYS") | {
        "open": "EACCES"
    }


@pytest.mark.threat("T-055")
def test_attempts_that_get_somewhere_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a worker that lacks its filter, and says that it has one."""
    monkeypatch.setattr(examination, "_ENTRY", "tests.support.unfiltered_probe")
    found = examination.examine()
    outcomes = {each.name: each.outcome for each in found.attempts}
    assert outcomes["mmap exec"] == outcomes["write and run"] == "worked"
    assert found.grade is HERE
    assert not found.locked


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4])
def test_a_host_without_descriptors_for_a_look_is_told_so(left: int) -> None:
    with descriptors_left(left), pytest.raises((HostExhausted, ZygoteGone)):
        examination.examine()


def test_doctor_shows_each_layer_and_each_attempt() -> None:
    said = document(rlm_wasm("doctor", "--json"))
    findings = {f["name"]: f for f in said["findings"]}
    assert findings["isolation in processes"]["status"] == "ok"
    assert {f"layer: {layer}" for layer in LAYERS} <= set(findings)
    assert findings["tried: open"] == {
        "name": "tried: open", "status": "ok", "detail": "EACCES", "hint": None, "required": False
    }  # fmt: skip
    assert findings["tried: exec"]["detail"] == "SIGSYS"


def test_the_documents_state_as_many_system_calls_as_the_table_names_and_doctor_shows() -> None:
    calls = len({rule.number for rule in RULES})
    for name in ("ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md", "threat_model/limitations.md"):
        assert re.findall(r"(\d+) system calls", (ROOT / name).read_text()) == [str(calls)], name
    told = {f.layer: f.detail for f in examination.examine().layers}["seccomp"]
    assert told.startswith(f"{calls} system calls named, ")


def test_doctor_keeps_each_name_apart_from_what_it_found() -> None:
    shown = rlm_wasm("doctor").stdout.decode()
    for layer in LAYERS:
        assert re.search(rf"^ +(ok|--)  layer: {layer} +\S", shown, re.MULTILINE), layer

"""``rlm-wasm doctor``: what this machine can do, checked by doing it."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, Literal

import click

from rlm_wasm import __version__
from rlm_wasm.cli import output
from rlm_wasm.cli.exit_codes import ExitCode
from rlm_wasm.cli.machine_policy import GRADE_WORDS, machine_policy
from rlm_wasm.errors import RlmWasmError
from rlm_wasm.lockdown import Grade
from rlm_wasm.system.host_limits import HOST_LIMITS, soft_limit

Status = Literal["ok", "missing", "failed"]
_MARKS: Final = {"ok": "ok", "missing": "--", "failed": "!!"}
_NAME_WIDTH: Final = 24  # of the longest: a layer


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One thing looked at. `required`: without it, guests do not run here."""

    name: str
    status: Status
    detail: str
    hint: str | None = None
    required: bool = True


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--policy",
    "only_policy",
    is_flag=True,
    help="Print only the name of the strictest built-in policy that runs here, and why on stderr.",
)
def doctor(as_json: bool, only_policy: bool) -> int:
    """Say what this machine can do: wasmtime, cache, guest, and each layer of a locked-down worker.

    A worker is made for it, and really tries to get out. Exits with 0 if guests can run here, else with 2.
    With --policy it needs no guest.
    """
    if only_policy:
        name, why = machine_policy()
        output.note(why)
        click.echo(name)
        return int(ExitCode.DONE)
    findings = [finding for name, check in _CHECKS.items() for finding in _checked(name, check)]
    able = all(f.status == "ok" for f in findings if f.required)
    if as_json:
        output.document({"version": __version__, "able": able, "findings": [asdict(f) for f in findings]})
    else:
        for finding in findings:
            click.echo(f"{_MARKS[finding.status]:>3}  {finding.name:<{_NAME_WIDTH}} {finding.detail}")
            if finding.hint and finding.status != "ok":
                click.echo(f"{'':<{_NAME_WIDTH + 6}}hint: {finding.hint}")
    return int(ExitCode.DONE if able else ExitCode.USAGE)


def _checked(name: str, check: Callable[[], DoctorFinding | list[DoctorFinding]]) -> list[DoctorFinding]:
    try:
        found = check()
    except RlmWasmError as error:
        return [DoctorFinding(name, "failed", error.message, error.hint, required=name not in _OPTIONAL)]
    return found if isinstance(found, list) else [found]


def _python() -> DoctorFinding:
    version = platform.python_version()
    supported = (3, 11) <= sys.version_info[:2] <= (3, 15) and sys.version_info[:3] != (3, 14, 0)
    hint = None if supported else "use Python 3.11 to 3.15, and of 3.14 not the first release"
    detail = f"{version} on {platform.system()} {platform.machine()}"
    return DoctorFinding("python", "ok" if supported else "failed", detail, hint)


def _wasmtime() -> DoctorFinding:
    from rlm_wasm.artifacts.compile_cache import wasmtime_version
    from rlm_wasm.vm.engine import engine

    engine()
    return DoctorFinding("wasmtime", "ok", f"{wasmtime_version()}, engine with fuel and our own memories")


def _cache() -> DoctorFinding:
    from rlm_wasm.artifacts.paths import cache_dir
    from rlm_wasm.artifacts.shared_cache import shared_cache

    shared = shared_cache()
    if shared is not None:
        return DoctorFinding("cache", "ok", f"{shared.folder}, which the users of this machine share")
    path = cache_dir()
    free = shutil.disk_usage(path).free
    return DoctorFinding("cache", "ok", f"{path} ({free / 1e9:.1f} GB free)")


def _key() -> DoctorFinding:
    from rlm_wasm.artifacts.machine_key import machine_key
    from rlm_wasm.artifacts.paths import state_dir
    from rlm_wasm.artifacts.shared_cache import KEY_FILE, shared_cache

    shared = shared_cache()
    if shared is not None:
        return DoctorFinding("machine key", "ok", f"{shared.folder / KEY_FILE}, that of the shared cache")
    machine_key()
    return DoctorFinding("machine key", "ok", f"{state_dir() / 'machine.key'} (0600)")


def _guest() -> DoctorFinding:
    from rlm_wasm.artifacts.installed import find_guest

    guest = find_guest()
    wasi = [name for name in guest.facts.imports if "wasi" in name]
    detail = f"CPython {guest.facts.cpython}, {len(guest.facts.imports)} imports, {len(wasi)} of them wasi"
    return DoctorFinding("guest", "failed" if wasi else "ok", detail)


def _session() -> DoctorFinding:
    from rlm_wasm.api.sandbox import Sandbox
    from rlm_wasm.policy.model import Policy

    name, why = machine_policy()
    result = Sandbox(Policy.builtin(name)).exec_sync("6*7")
    detail = f"6*7 is {result.result or result.outcome}, under the policy {name}"
    return DoctorFinding("a session", "ok" if result.result == "42" else "failed", detail, why)


def _inline() -> DoctorFinding:
    return DoctorFinding(
        "isolation inline", "ok", "the guest in this process, behind the wasm wall", required=False
    )


def _processes() -> list[DoctorFinding]:
    from rlm_wasm.host.examination import examine

    found = examine()
    layers = [
        DoctorFinding(f"layer: {f.layer}", "ok" if f.applied else "missing", f.detail, required=False)
        for f in found.layers
    ]
    attempts = [
        DoctorFinding(f"tried: {each.name}", "ok" if each.refused else "failed", each.outcome, required=False)
        for each in found.attempts
    ]
    worked = sum(not each.refused for each in found.attempts)
    detail = f"a worker tried {len(attempts)} ways out, and {worked or 'none'} worked"
    first = DoctorFinding(
        "isolation in processes", "ok" if found.locked else "failed", detail, _LAYER_HINT, required=False
    )
    whole = found.grade is Grade.FULL
    hint = None if whole else _GRADE_HINTS.get(found.grade, _LAYER_HINT)
    words = GRADE_WORDS[found.grade]
    grade = DoctorFinding("lock-down", "ok" if whole else "missing", words, hint, required=False)
    return [first, grade, *layers, *attempts]


def _limits() -> list[DoctorFinding]:
    """Return each limit of this process that guests need room below, where there is one."""
    found = []
    for limit in HOST_LIMITS:
        value = soft_limit(limit)
        detail = f"{'unlimited' if value is None else value}; a worker takes {limit.processes} {limit.what}"
        hint = f"ulimit {limit.flag} {limit.in_shell(limit.processes)}, or more, where this was started"
        needed = value is not None and value < limit.inline
        short = value is not None and value < limit.processes
        status: Status = "failed" if needed else "missing" if short else "ok"
        found.append(DoctorFinding(f"limit: {limit.name}", status, detail, hint, required=needed))
    return found


def _compiler() -> DoctorFinding:
    found = shutil.which("cc") or shutil.which("gcc")
    hint = "needed only to build the guest: apt-get install gcc"
    return DoctorFinding(
        "C compiler", "ok" if found else "missing", found or "none on PATH", hint, required=False
    )


# What a machine may lack and still run guests.
_OPTIONAL: Final = ("isolation in processes",)
_LAYER_HINT: Final = "policies with sandbox.require_lockdown = true do not run here"
_GRADE_HINTS: Final = dict.fromkeys(
    (Grade.NAMESPACED, Grade.FILTERED), "the policy container runs here, strict does not"
)
_CHECKS: Final[dict[str, Callable[[], DoctorFinding | list[DoctorFinding]]]] = {
    "python": _python,
    "limits": _limits,
    "wasmtime": _wasmtime,
    "cache": _cache,
    "machine key": _key,
    "guest": _guest,
    "a session": _session,
    "isolation inline": _inline,
    "isolation in processes": _processes,
    "C compiler": _compiler,
}

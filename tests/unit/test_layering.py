"""Who may import whom, read from the source of every module.

A package is a trust zone or a pure part; `MAY_IMPORT` says which others it may know.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import rlm_wasm

ROOT: Final = Path(rlm_wasm.__file__).parent
PACKAGE: Final = "rlm_wasm"

# What every part may use: names, numbers and errors, with nothing behind them.
LEAF_ORDER: Final = {
    "document_text": 0,
    "ids": 0,
    "limits": 0,
    "lockdown": 0,
    "outcomes": 0,
    "thoughts": 0,
    "version": 0,
    "errors": 1,
    "events": 1,
    "guidance": 2,
    "json_text": 1,
    "values": 2,
    "folder_text": 3,
    "results": 3,
    "tenant": 3,
}
LEAVES: Final = frozenset(LEAF_ORDER)

# Which other packages a package may import, leaves aside. What is not named here is not allowed.
MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(LEAVES, frozenset()),
    "system": frozenset(),
    # pure
    "scheduler": frozenset(),
    "conversation": frozenset({"scheduler"}),
    # between the zones
    "protocol": frozenset({"scheduler", "system"}),
    "policy": frozenset({"system"}),
    "artifacts": frozenset({"protocol", "system"}),
    # the guest's side
    "vm": frozenset({"protocol", "system"}),
    "jail": frozenset({"protocol", "system", "vm"}),
    # the host's side
    "host": frozenset({"artifacts", "protocol", "scheduler", "system"}),
    "inline": frozenset({"artifacts", "host", "protocol", "system", "vm"}),
    "inputs": frozenset({"protocol", "system"}),
    "providers": frozenset({"policy", "protocol", "scheduler", "system"}),
    "tools": frozenset({"policy", "protocol", "scheduler", "system"}),
    "answers": frozenset({"conversation", "providers"}),
    "audit": frozenset({"protocol", "scheduler"}),
    "engine": frozenset(
        {
            "answers",
            "artifacts",
            "audit",
            "conversation",
            "host",
            "inline",
            "policy",
            "protocol",
            "providers",
            "scheduler",
            "system",
            "tools",
        }
    ),
    "api": frozenset(
        {
            "answers",
            "artifacts",
            "conversation",
            "engine",
            "host",
            "inputs",
            "policy",
            "protocol",
            "providers",
            "scheduler",
            "system",
            "tools",
        }
    ),
    "integrations": frozenset({"api", "conversation", "host", "policy", "providers", "tools"}),
    "replay": frozenset(
        {"answers", "api", "artifacts", "audit", "engine", "host", "policy", "providers", "scheduler"}
    ),
    "mcp": frozenset({"api", "engine", "inputs", "policy", "protocol", "system", "tools"}),
    "compat": frozenset({"api", "host", "integrations", "policy", "providers", "tools"}),
    "guestbuild": frozenset({"artifacts", "protocol", "vm"}),
    "conformance": frozenset({"protocol", "vm"}),
    "images": frozenset({"artifacts", "guestbuild", "protocol", "system", "vm"}),
    # what a user starts
    PACKAGE: frozenset({"api", "engine", "host", "inputs", "policy", "protocol", "tools"}),
    "bench": frozenset({"api", "engine", "host", "inline", "policy", "protocol", "providers", "vm"}),
    "cli": frozenset(
        {
            PACKAGE,
            "answers",
            "api",
            "artifacts",
            "audit",
            "bench",
            "conformance",
            "engine",
            "guestbuild",
            "host",
            "images",
            "inline",
            "inputs",
            "mcp",
            "policy",
            "protocol",
            "replay",
            "system",
            "vm",
        }
    ),
}

# What a zone must not come to by any way, whoever is in between: parts of the package, and libraries.
_KEYS: Final = frozenset(
    {
        "api",
        "artifacts",
        "audit",
        "cli",
        "compat",
        "cryptography",
        "engine",
        "host",
        "httpx",
        "inline",
        "inputs",
        "integrations",
        "platformdirs",
        "policy",
        "providers",
        "pydantic",
        "pydantic_core",
        "replay",
        "tools",
    }
)
NEVER_REACHES: Final[dict[str, tuple[frozenset[str], str]]] = {
    "host": (frozenset({"inline", "jail", "vm", "wasmtime"}), "no guest's machine where the keys are"),
    "jail": (_KEYS, "no key, and no way to one, where guests are"),
    "vm": (_KEYS | {"jail"}, "the machine that guests run in is the same in every process"),
}
# Who builds the guest; everybody else runs what is built.
BUILDERS: Final = frozenset({"cli", "guestbuild", "images"})

# The packages that decide: no clock, randomness, thread, file or socket.
PURE: Final = frozenset(
    {
        "scheduler",
        "conversation",
        "limits",
        "lockdown",
        "tenant",
        "events",
        "ids",
        "outcomes",
        "guidance",
        "results",
        "json_text",
        "thoughts",
    }
)

# Third-party packages: who may import them, and why nobody else may.
THIRD_PARTY: Final[dict[str, tuple[frozenset[str], str]]] = {
    "wasmtime": (
        frozenset({"vm"}),
        "one place to review for what can reach host memory",
    ),
    "httpx": (
        frozenset({"providers", "integrations.verifiers"}),
        "one place through which anything leaves the machine; and to the interception of a package that asks",
    ),
    "anyio": (
        frozenset(
            {
                "api",
                "engine",
                "host",
                "inline",
                "integrations",
                "mcp",
                "system",
                "tools",
                "replay",
                "providers",
                "bench",
                "cli",
            }
        ),
        "decisions are pure; only the shell waits; the command line and benchmarks start the shell's loop",
    ),
    "msgspec": (
        frozenset({"values", "protocol", "audit", "events", "results"}),
        "one gate where bytes from outside become types; an event is one of them when a log is read, a "
        "cell's result when a worker reports it",
    ),
    "opentelemetry": (frozenset({"audit.otel"}), "an extra; whoever does not ask for it does not load it"),
    "prometheus_client": (
        frozenset({"api.prometheus"}),
        "an extra; whoever does not ask for it does not load it",
    ),
    "litellm": (
        frozenset({"providers.litellm"}),
        "an extra that talks to the network; whoever does not ask for it does not load it",
    ),
    "dspy": (
        frozenset({"integrations.dspy"}),
        "an extra; whoever does not ask for it does not load it",
    ),
    "mcp": (frozenset({"mcp"}), "an extra; whoever does not ask for it does not load it"),
    "uvicorn": (frozenset({"mcp.http"}), "what serves that package over HTTP"),
    "mcp_types": (frozenset({"mcp"}), "what the messages of that package are made of"),
    "rlm": (
        frozenset({"integrations.rlms"}),
        "an extra; whoever does not ask for it does not load it",
    ),
    "agents": (
        frozenset({"integrations.openai_agents"}),
        "an extra; whoever does not ask for it does not load it",
    ),
    "langchain_core": (
        frozenset({"integrations.langchain"}),
        "an extra; whoever does not ask for it does not load it",
    ),
    "pydantic_ai": (
        frozenset({"integrations.pydantic_ai"}),
        "an extra; whoever does not ask for it does not load it",
    ),
    "smolagents": (
        frozenset({"integrations.smolagents"}),
        "an extra; whoever does not ask for it does not load it",
    ),
    "verifiers": (
        frozenset({"integrations.verifiers"}),
        "an extra; whoever does not ask for it does not load it",
    ),
    "re2": (
        frozenset({"providers", "inputs"}),
        "a pattern meets a guest's text, or a folder's own patterns its names: linear, whatever they hold",
    ),
    "pathspec": (frozenset({"inputs"}), "one place that reads patterns of paths"),
    "genai_prices": (
        frozenset({"policy.price_list"}),
        "it could fetch a newer list: nobody but the one who asks the installed one loads it",
    ),
    "pydantic": (
        frozenset({"tools.validation", "answers.python_type"}),
        "who reads a tool's type hints, and a type that an answer is to be of; slow to load",
    ),
    "pydantic_core": (
        frozenset({"policy", "integrations.host_functions", "integrations.pydantic_ai"}),
        "one place that reads what the operator wrote; what other libraries hold is often pydantic's",
    ),
    "cryptography": (frozenset({"audit", "artifacts"}), "keys and MACs stay with what they authenticate"),
    "backports": (
        frozenset({"system.zstd"}),
        "zstd before Python 3.14; who packs or unpacks what lies on disk takes it from there",
    ),
    "click": (frozenset({"cli"}), "a library must not parse command lines"),
    "rich": (frozenset({"cli"}), "a library must not draw on terminals"),
    "platformdirs": (frozenset({"artifacts.paths"}), "one place that decides where files of ours live"),
}

# Of the standard library of newer Pythons than the oldest that runs this.
NEWER_STDLIB: Final = frozenset({"compression"})

# Packages that are installed under another name than they are imported.
INSTALLED_AS: Final = {
    "backports": "backports.zstd",
    "agents": "openai-agents",
    "genai_prices": "genai-prices",
    "mcp_types": "mcp",
    "pydantic_ai": "pydantic-ai-slim",
    "re2": "pyre2",
    "rlm": "rlms",
}

# Modules that load others by name, and why. The names are strings in them, and are read as imports.
BY_NAME: Final[dict[str, str]] = {
    "": "the façade loads a public name on first use",
    "cli.main": "a command is loaded when it is called",
    "jail.zygote": "the entry that its workers run, fixed when the zygote starts",
    "bench.peers": "other sandboxes are no dependency; one is loaded when it is measured",
}

# Who reads a clock of the machine, and why. Everybody else is given one, so that it can be a virtual one.
CLOCKS: Final[dict[str, str]] = {
    "integrations.rlms": "the library is told how long a cell took",
    "compat.trajectory_log": "the wall clock's time of a line, which a person reads",
    "replay.resume": "the times of a run that goes on behind its log",
    "api.sandbox": "the outermost caller: how long a session's requests take to read",
    "api.world": "the outermost constructor: the default of its argument",
    "inline.worker": "the outermost constructor: the default of its argument",
    "host.pool": "the outermost constructor: the default of its argument",
    "host.connection": "a real process: when it was heard, and what its cells are charged",
    "host.readiness": "a real process: how long it did nothing",
    "host.process_handle": "a real process: its clock of processor time",
    "host.examination": "a real process: how long it may take to report",
    "host.short_answer": "a real process: how long it may take to answer",
    "host.compilation": "a real process: how long it may take to compile",
    "jail.worker_main": "in that process: its seats, and how long it stays awake",
    "vm.execution": "a real guest: what its polls took",
    "vm.upkeep": "a real guest: what the steps on its state took",
    "vm.import_handler": "a real guest: its own clock, and when it wakes",
    "vm.imports": "a real guest: when its slice is over",
    "guestbuild.hostless": "a real guest: when its slice is over",
    "vm.traps": "a real process: how old what is known of its signals may be",
    "system.forks": "other threads: how long a fork may wait for them",
    "vm.drive": "a real guest: how long to wait for one that sleeps",
    "audit.otel": "the wall clock's time of a trace",
    "policy.price_list": "which of a model's prices holds today",
    "cli.build_progress": "shown to a person",
    "cli.cache": "how long nobody used what lies there",
    "cli.execute": "shown to a person",
    "cli.guest": "shown to a person",
    "cli.image": "shown to a person",
    "bench.density_bench": "measures",
    "bench.measurement": "measures",
    "bench.peer_bench": "measures",
    "bench.pool_bench": "measures",
    "bench.query_bench": "measures",
    "bench.recursion_bench": "measures",
    "bench.sandbox_bench": "measures",
    "bench.worker_bench": "measures",
}

# Names of `time` that tell no time.
NO_CLOCKS: Final = (
    "sleep",
    "strftime",
    "strptime",
    "mktime",
    "struct_time",
    "tzset",
    "asctime",
    "get_clock_info",
)

# What pure packages may use of the standard library.
PURE_STDLIB: Final[dict[str, str]] = {
    "__future__": "annotations stay text",
    "collections": "deque",
    "collections.abc": "types",
    "dataclasses": "records",
    "enum": "states",
    "functools": "pure",
    "hashlib": "jitter out of a seed",
    "heapq": "pure",
    "itertools": "pure",
    "math": "pure",
    "re": "parsing replies",
    "types": "types",
    "typing": "types",
}


@dataclass(frozen=True)
class Import:
    importer: str  # dotted, without the package's own name: "core.ledger"
    imported: str  # dotted and absolute: "rlm_wasm.errors", "os.path"
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name within it; "" is the façade."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0].startswith("_") and parts[0] not in ("__init__", "__main__"):
            continue  # data that the wheel carries: the guest's own Python
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES: Final = modules()


def imports_of(name: str, source: str, *, is_package: bool) -> Iterator[Import]:
    """Yield what a module imports, wherever in it the import stands, relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = [PACKAGE, *name.split(".")] if name else [PACKAGE]
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                # `from rlm_wasm import errors` imports a module, `from rlm_wasm import Policy` the façade.
                inner = f"{base}.{alias.name}".removeprefix(f"{PACKAGE}.")
                is_module = base.split(".")[0] == PACKAGE and inner in MODULES
                yield Import(name, f"{PACKAGE}.{inner}" if is_module else base, node.lineno)
        elif name in BY_NAME and isinstance(node, ast.Constant) and str(node.value).startswith(f"{PACKAGE}."):
            yield Import(name, str(node.value), node.lineno)


def all_imports() -> list[Import]:
    return [
        found
        for name, path in MODULES.items()
        for found in imports_of(name, path.read_text(), is_package=path.name == "__init__.py")
    ]


IMPORTS: Final = all_imports()


def part(module: str) -> str:
    """Return the name in MAY_IMPORT of a module within the package."""
    top = module.split(".")[0]
    return PACKAGE if top == "" else "cli" if top == "__main__" else top


def faults(imports: list[Import]) -> list[str]:
    """Return every import that the three tables do not allow."""
    found = []
    for each in imports:
        importer = part(each.importer)
        top = each.imported.split(".")[0]
        if top == PACKAGE:
            target = each.imported.removeprefix(PACKAGE).removeprefix(".")
            imported = part(target)
            allowed = (
                importer == imported
                or imported in MAY_IMPORT[importer]
                or (
                    imported in LEAVES
                    and (importer not in LEAVES or LEAF_ORDER[importer] > LEAF_ORDER[imported])
                )
            )
        elif top in sys.stdlib_module_names or top in NEWER_STDLIB:
            allowed = importer not in PURE or each.imported in PURE_STDLIB
        else:
            who = THIRD_PARTY.get(top, (frozenset[str](), ""))[0]
            allowed = importer in who or each.importer in who
        if not allowed:
            found.append(str(each))
    return found


def test_every_part_of_the_package_has_its_level() -> None:
    assert {part(name) for name in MODULES} <= set(MAY_IMPORT)


def test_no_import_goes_up_or_sideways_or_to_a_library_that_is_not_its_own() -> None:
    assert faults(IMPORTS) == []


def test_the_tables_name_nothing_that_is_not_a_dependency() -> None:
    project = (ROOT.parent / "pyproject.toml").read_text()
    for library in THIRD_PARTY:
        assert f'"{INSTALLED_AS.get(library, library).replace("_", "-")}' in project


def test_only_those_who_must_import_by_name() -> None:
    by_name = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute | ast.Name | ast.alias):
                word = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", "")
                if word in ("__import__", "import_module"):
                    by_name.add(name)
    assert by_name == set(BY_NAME)


def reads_a_clock(source: str) -> bool:
    """Whether a module names one of the functions that read a clock."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module="time" | "_time", names=names):
                if any(is_clock(alias.name) for alias in names):
                    return True
            case ast.Attribute(value=ast.Name(id="time"), attr=name) if is_clock(name):
                return True
            case ast.Attribute(attr="now" | "utcnow" | "today"):  # of a datetime or a date
                return True
            case ast.Import(names=names) if any(alias.name == "time" and alias.asname for alias in names):
                return True  # under another name, where the line above would not see it
    return False


def is_clock(name: str) -> bool:
    """Whether a name of `time` tells the time; sleeping and formatting do not."""
    return name == "*" or (callable(getattr(time, name, None)) and name not in NO_CLOCKS)


def test_only_those_who_must_read_a_clock() -> None:
    assert {name for name, path in MODULES.items() if reads_a_clock(path.read_text())} == set(CLOCKS)


@pytest.mark.parametrize(
    "source",
    [
        "from time import monotonic_ns",
        "def f():\n    from time import time as now",
        "import time\ntime.perf_counter()",
        "import time as clock",
        "from time import *",
        "from datetime import datetime\ndatetime.now()",
    ],
)
def test_a_module_that_reads_a_clock_is_found(source: str) -> None:
    assert reads_a_clock(source)
    assert not reads_a_clock("import time\nfrom time import sleep\ntime.sleep(1)\nclock = self.now_ns")


def test_every_public_name_is_there_and_comes_from_below_the_facade() -> None:
    for name in rlm_wasm.__all__:
        thing = getattr(rlm_wasm, name)
        # A name for a type, such as a union, does not know where it was made.
        home = thing.__module__ if isinstance(thing, type) else rlm_wasm._WHERE.get(name, PACKAGE)
        assert home == PACKAGE or part(home.removeprefix(f"{PACKAGE}.")) in MAY_IMPORT[PACKAGE] | LEAVES


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("scheduler.ledger", "import os"),
        ("scheduler.ledger", "import time"),
        ("scheduler.ledger", "from random import Random"),
        ("scheduler.ledger", "def f():\n    import asyncio"),
        ("scheduler.ledger", "from rlm_wasm.protocol.guest_frames import Finish"),
        ("scheduler.ledger", "from rlm_wasm import Policy"),
        ("scheduler.ledger", "import msgspec"),
        ("scheduler.ledger", "from ..engine import broker"),
        ("vm.session", "import httpx"),
        ("vm.session", "from rlm_wasm.policy import model"),
        ("vm.session", "from rlm_wasm.providers import secret"),
        ("host.pool", "import wasmtime"),
        ("host.pool", "from rlm_wasm.vm.engine import engine"),
        ("jail.worker_main", "from rlm_wasm.engine.broker import Broker"),
        ("protocol.guest_frames", "from rlm_wasm.policy.model import Policy"),
        ("artifacts.compile_cache", "from rlm_wasm.vm.engine import engine"),
        ("artifacts.compile_cache", "import platformdirs"),
        ("providers.http_provider", "from rlm_wasm.host import pool"),
        ("providers.http_provider", "from rlm_wasm.audit.sink import JsonlSink"),
        ("engine.shell", "from rlm_wasm.cli.main import entry"),
        ("engine.shell", "import click"),
        ("engine.shell", "import wasmtime._bindings"),
        ("engine.shell", "from rlm_wasm.guestbuild.build import build"),
        ("errors", "from rlm_wasm.results import RunResult"),
        ("policy.model", "import yaml"),
        ("", "WHERE = 'rlm_wasm.cli.main'"),
    ],
)
def test_an_import_that_may_not_be_is_found(importer: str, source: str) -> None:
    assert faults(list(imports_of(importer, source, is_package=False)))


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("scheduler.ledger", "from rlm_wasm.errors import InternalError"),
        ("scheduler.ledger", "from collections.abc import Mapping"),
        ("scheduler.ledger", "from .effects import Effect"),
        ("vm.session", "from rlm_wasm.protocol.guest_facts import GuestFacts"),
        ("vm.session", "import wasmtime"),
        ("artifacts.paths", "import platformdirs"),
        ("engine.shell", "from rlm_wasm.scheduler.scheduler import Scheduler"),
        ("engine.shell", "from rlm_wasm import errors"),
        ("cli.main", "from rlm_wasm import Policy"),
        ("events", "from rlm_wasm.ids import RunId"),
    ],
)
def test_an_import_that_may_be_is_not_found(importer: str, source: str) -> None:
    assert faults(list(imports_of(importer, source, is_package=False))) == []


# -- zones -------------------------------------------------------------------------------------------------


def forbidden(zone: str) -> frozenset[str]:
    """Return what a part of the package must not come to."""
    found = NEVER_REACHES[zone][0] if zone in NEVER_REACHES else frozenset[str]()
    return found if zone in BUILDERS else found | {"guestbuild"}


def ways(imports: list[Import], zone: str, unwanted: frozenset[str]) -> list[str]:
    """Return each unwanted module or library that a zone comes to, with a shortest way there."""
    graph: dict[str, list[str]] = {}
    for each in imports:
        graph.setdefault(each.importer, []).append(each.imported.removeprefix(PACKAGE).removeprefix("."))
    came_from: dict[str, str | None] = {name: None for name in MODULES if part(name) == zone}
    reached = deque(came_from)
    found = []
    while reached:
        name = reached.popleft()
        if name.split(".")[0] in unwanted:
            way = [name]
            while (before := came_from[way[-1]]) is not None:
                way.append(before)
            found.append(" > ".join(reversed(way)))
            continue
        for following in graph.get(name, ()):
            if following not in came_from:
                came_from[following] = name
                reached.append(following)
    return found


def trespasses(imports: list[Import]) -> list[str]:
    """Return each way from a zone to what it must not come to."""
    return [way for zone in MAY_IMPORT for way in ways(imports, zone, forbidden(zone))]


def test_the_zones_name_parts_and_libraries_that_there_are() -> None:
    for zone, (unwanted, _) in NEVER_REACHES.items():
        assert {zone} | unwanted <= MAY_IMPORT.keys() | THIRD_PARTY.keys()


def test_no_zone_comes_to_what_it_must_not_by_any_way() -> None:
    assert trespasses(IMPORTS) == []


def test_the_way_from_the_inline_zone_to_the_guests_machine_is_found() -> None:
    """The control: there is one, and more than one step long."""
    assert "vm" in {way.split(" > ")[-1].split(".")[0] for way in ways(IMPORTS, "inline", frozenset({"vm"}))}
    assert ways(IMPORTS, "inline", frozenset({"wasmtime"}))


@pytest.mark.parametrize(
    ("importer", "source", "way"),
    [
        ("host.pool", "def f():\n    from rlm_wasm.vm.session import Session", "host.pool > vm.session"),
        ("host.guest_files", "from ..vm import engine", "host.guest_files > vm.engine"),
        ("artifacts.compile_cache", "import wasmtime", "artifacts.compile_cache > wasmtime"),
        ("protocol.text_layout", "from rlm_wasm.vm.memory_unsafe import GuestMemory", "> vm.memory_unsafe"),
        ("protocol.frames", "from rlm_wasm.artifacts.machine_key import mac", "> artifacts.machine_key"),
        ("system.memfd", "import cryptography.hazmat.primitives", "system.memfd > cryptography"),
        ("vm.drive", "from rlm_wasm.providers.secret import Secret", "vm.drive > providers.secret"),
        ("engine.run", "from rlm_wasm.guestbuild.names import guest_names", "engine.run > guestbuild.names"),
    ],
)
def test_an_import_that_opens_a_way_is_found(importer: str, source: str, way: str) -> None:
    planted = list(imports_of(importer, source, is_package=False))
    assert any(way in found for found in trespasses(IMPORTS + planted))


_LOADED = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(zone: str) -> set[str]:
    """Return what an interpreter has loaded when it has loaded a whole zone, by the names of the table."""
    names = [f"{PACKAGE}.{name}" for name in MODULES if name.split(".")[0] == zone]
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, json.dumps(names)], capture_output=True, check=True, cwd=ROOT.parent
    )
    loaded = [str(name).removeprefix(f"{PACKAGE}.").split(".") for name in json.loads(done.stdout)]
    return {name[0] for name in loaded}


@pytest.mark.parametrize("zone", ["host", "jail", "vm"])
def test_a_zone_that_is_loaded_has_loaded_nothing_that_it_must_not(zone: str) -> None:
    loaded = loaded_by(zone)
    assert zone in loaded
    assert loaded & forbidden(zone) == set()


def test_the_inline_zone_has_loaded_the_guests_machine() -> None:
    assert {"vm", "wasmtime"} <= loaded_by("inline")


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules that import each other, at whatever distance."""
    reached = {name: set(found) for name, found in imports.items()}
    changed = True
    while changed:
        changed = False
        for found in reached.values():
            more = found.union(*(reached.get(name, set()) for name in found))
            changed |= len(more) > len(found)
            found |= more
    return [
        {other for other in found if name in reached.get(other, set())} | {name}
        for name, found in reached.items()
        if name in found
    ]


def imported_at_run_time(name: str, path: Path) -> set[str]:
    """Return the modules of the package that a module imports, but for those that only annotations name."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    source = ast.unparse(ast.fix_missing_locations(tree))
    found = imports_of(name, source, is_package=path.name == "__init__.py")
    inside = {
        each.imported.removeprefix(f"{PACKAGE}.") for each in found if each.imported.startswith(f"{PACKAGE}.")
    }
    return {each for each in inside if each in MODULES} - {name}


def test_no_modules_import_each_other() -> None:
    assert circles({name: imported_at_run_time(name, path) for name, path in MODULES.items() if name}) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}] * 3


# A possessive or atomic group: before Python 3.11.5 it matches less than it should.
_EARLY_PYTHONS_GET_IT_WRONG: Final = re.compile(r"\)(?:[*+?]|\{[0-9,]+\})\+|\(\?>")


def patterns_in(source: str) -> Iterator[str]:
    """Yield every text that a module gives to `re.compile`, as far as it is written there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile":
            yield from (str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant))


def test_no_pattern_needs_what_early_pythons_get_wrong() -> None:
    found = [
        f"{name}: {pattern}"
        for name, path in MODULES.items()
        for pattern in patterns_in(path.read_text())
        if _EARLY_PYTHONS_GET_IT_WRONG.search(pattern)
    ]
    assert found == []


def test_a_possessive_group_is_found() -> None:
    (pattern,) = patterns_in("import re\nX = re.compile(r'(?:a|b)*+c')")
    assert _EARLY_PYTHONS_GET_IT_WRONG.search(pattern)
    assert not _EARLY_PYTHONS_GET_IT_WRONG.search("[^a]*+(?:a|b)*c")

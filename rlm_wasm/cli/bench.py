"""``rlm-wasm bench``: measure this machine, as a table or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict

import click

from rlm_wasm.bench.measurement import Measurement
from rlm_wasm.cli import output


@click.command("bench")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of name, value, unit, n, note.")
@click.option("--only", multiple=True, metavar="NAME", help="Take only this measurement (may be repeated).")
@click.option("--quick", is_flag=True, help="Fewer runs: a look, not a figure to quote.")
def bench(as_json: bool, only: tuple[str, ...], quick: bool) -> None:
    """Measure sessions and whole commands on this machine; medians of many."""
    measurements = _measurements(quick)
    unknown = [name for name in only if name not in measurements]
    if unknown:
        raise click.UsageError(f"there is no measurement {unknown[0]}; there are: {', '.join(measurements)}")
    chosen = {name: take for name, take in measurements.items() if not only or name in only}
    taken: list[Measurement] = []
    for name, take in chosen.items():
        if sys.stderr.isatty():
            output.note(f"measuring {name} …")
        taken.append(take())
        if not as_json:
            last = taken[-1]
            click.echo(f"{last.name:<22}{last.value:>12.2f} {last.unit:<4} n={last.n:<6} {last.note}")
    if as_json:
        output.document([asdict(m) for m in taken])


def _measurements(quick: bool) -> dict[str, Callable[[], Measurement]]:
    from rlm_wasm.bench.density_bench import DensityBench
    from rlm_wasm.bench.image_bench import ImageBench
    from rlm_wasm.bench.process_bench import exec_process
    from rlm_wasm.bench.sandbox_bench import SandboxBench
    from rlm_wasm.policy.model import Policy

    policy = Policy.builtin("standard")
    return {
        **SandboxBench(policy, quick=quick).measurements(),
        **ImageBench(policy, quick=quick).measurements(),
        **DensityBench(policy, quick=quick).measurements(),
        "exec_process_ms": lambda: exec_process(quick=quick),
    }

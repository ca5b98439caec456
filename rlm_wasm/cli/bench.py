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
@click.option("--peers", is_flag=True, help="Compare with other sandboxes that are installed here.")
def bench(as_json: bool, only: tuple[str, ...], quick: bool, peers: bool) -> None:
    """Measure sessions and whole commands on this machine; medians of many."""
    if peers:
        if only:
            raise click.UsageError("--peers takes its own measurements; leave --only out")
        _peers(as_json, quick)
        return
    measurements = _measurements(quick)
    unknown = [name for name in only if name not in measurements]
    if unknown:
        raise click.UsageError(f"there is no measurement {unknown[0]}; there are: {', '.join(measurements)}")
    chosen = {name: take for name, take in measurements.items() if not only or name in only}
    taken: list[Measurement] = []
    for name, take in chosen.items():
        _told(f"measuring {name} …")
        taken.append(take())
        if not as_json:
            last = taken[-1]
            click.echo(f"{last.name:<22}{last.value:>12.2f} {last.unit:<4} n={last.n:<6} {last.note}")
    if as_json:
        output.document([asdict(m) for m in taken])


def _peers(as_json: bool, quick: bool) -> None:
    from rlm_wasm.bench.peer_bench import measure_peers
    from rlm_wasm.policy.model import Policy

    figures = measure_peers(Policy.builtin("standard"), quick=quick, told=_told)
    if as_json:
        output.document([asdict(figure) for figure in figures])
        return
    present = [figure.peer for figure in figures if figure.name == "present"]
    for figure in figures:
        if figure.name in ("present", "absent"):
            click.echo(f"{figure.peer:<10}{figure.name}: {figure.note}")
    click.echo(f"\n{'':<18}" + "".join(f"{peer:>14}" for peer in present))
    cells = {(figure.peer, figure.name): figure for figure in figures}
    for name in dict.fromkeys(figure.name for figure in figures):
        if name not in ("present", "absent"):
            values = [cells[peer, name].value for peer in present]
            shown = ("none" if value is None else f"{value:.2f}" for value in values)
            click.echo(f"{name:<18}" + "".join(f"{text:>14}" for text in shown))
    for figure in cells.values():
        if figure.value is None and figure.name not in ("present", "absent"):
            click.echo(f"{figure.peer}, {figure.name}: {figure.note}")


def _told(text: str) -> None:
    if sys.stderr.isatty():
        output.note(text)


def _measurements(quick: bool) -> dict[str, Callable[[], Measurement]]:
    from rlm_wasm.bench.density_bench import DensityBench
    from rlm_wasm.bench.image_bench import ImageBench
    from rlm_wasm.bench.pool_bench import PoolBench
    from rlm_wasm.bench.process_bench import exec_process
    from rlm_wasm.bench.query_bench import QueryBench
    from rlm_wasm.bench.recursion_bench import RecursionBench
    from rlm_wasm.bench.sandbox_bench import SandboxBench
    from rlm_wasm.bench.worker_bench import WorkerBench
    from rlm_wasm.policy.model import Policy

    policy = Policy.builtin("standard")
    return {
        **SandboxBench(policy, quick=quick).measurements(),
        **ImageBench(policy, quick=quick).measurements(),
        **DensityBench(policy, quick=quick).measurements(),
        **QueryBench(policy, quick=quick).measurements(),
        **RecursionBench(policy, quick=quick).measurements(),
        **WorkerBench(policy, quick=quick).measurements(),
        **PoolBench(policy, quick=quick).measurements(),
        "exec_process_ms": lambda: exec_process(quick=quick),
    }

"""The choice of a worker, by the isolation that a policy asks for."""

from __future__ import annotations

from rlm_wasm.engine.accounting import Accounting
from rlm_wasm.host.worker import Worker
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.session_snapshot import SessionSnapshot


def make_worker(policy: Policy, accounting: Accounting) -> Worker:
    """Return a worker of the policy's isolation, not yet entered. Nothing is started before a session is.

    What its processes use is counted in `accounting`.
    """
    isolation = policy.sandbox.isolation
    # Each where it is wanted: guests in this process need no pool, and with a pool it loads no wasmtime.
    if isolation == "inline":
        from rlm_wasm.inline.worker import InlineWorker

        return InlineWorker(cells_max=policy.tenant_limits().cells_max, image=policy.sandbox.image)
    from rlm_wasm.host.pool import PoolLimits, WorkerPool

    pool = WorkerPool(
        PoolLimits(
            isolation=isolation,
            workers=policy.workers,
            tenants=policy.tenant_limits(),
            session=policy.session_limits(),
            cell=policy.cell,
            boundary=policy.boundary,
            required_layers=policy.required_layers(),
            image=policy.sandbox.image,
        ),
        charge=lambda tenant, cpu_ns: accounting.meter(tenant).worker_ran(cpu_ns),
    )
    accounting.watch(pool.metrics)
    return pool


def import_worker(policy: Policy) -> None:
    """Load the code of such a worker now: who is interrupted later is then in the midst of no import."""
    if policy.sandbox.isolation == "inline":
        from rlm_wasm.inline import worker  # noqa: F401
    else:
        from rlm_wasm.host import pool  # noqa: F401


def restorable_snapshot(
    policy: Policy, tenant: str, runs: tuple[tuple[int, bytes], ...], *, size: int, virtual_ns: int
) -> SessionSnapshot:
    """Return an image of these pages that a worker of the policy's isolation can start a session from."""
    if policy.sandbox.isolation == "inline":
        from rlm_wasm.inline.loaded_snapshot import loaded_snapshot

        return loaded_snapshot(runs, size=size, virtual_ns=virtual_ns, image=policy.sandbox.image)
    from rlm_wasm.protocol.snapshot_runs import WorkerSnapshot

    domain = "" if policy.sandbox.isolation == "shared" else tenant
    return WorkerSnapshot.of_runs(runs, tenant=domain, size=size, virtual_ns=virtual_ns)

"""Which kind of worker a policy asks for."""

from __future__ import annotations

from rlm_wasm.policy.model import Policy
from rlm_wasm.worker.inline import InlineWorker
from rlm_wasm.worker.worker import Worker


def make_worker(policy: Policy) -> Worker:
    """Return a worker of the policy's isolation, not yet entered. Nothing is started before a session is."""
    isolation = policy.sandbox.isolation
    if isolation == "inline":
        return InlineWorker()
    # Here and not above: whoever runs guests in this process needs none of it.
    from rlm_wasm.worker.lockdown.report import LAYERS
    from rlm_wasm.worker.pool import PoolLimits, WorkerPool

    return WorkerPool(
        PoolLimits(
            isolation=isolation,
            workers=policy.worker_limits(),
            session=policy.session_limits(),
            cell=policy.cell_limits(),
            boundary=policy.boundary_limits(),
            required_layers=LAYERS if policy.sandbox.require_lockdown else (),
        )
    )

"""Loading what will run the guest while the rest of the command is still being imported."""

from __future__ import annotations

import threading

from rlm_wasm.cli.first_use import show_first_use
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.system.host_limits import check_host_limits


def preload_guest(policy_name: str, *, inline: bool = False, image: str | None = None) -> None:
    """Start on another thread what the policy's isolation will need: the guest, or a zygote that loads it.

    `inline` and `image` say so of it, whatever the policy says.

    Whatever goes wrong there goes wrong again, and is told, where it is wanted.
    """
    show_first_use()
    # Before anything large is imported: an address space that is too small ends in an abort.
    check_host_limits(processes=False)
    given = (policy_name, inline, image)
    threading.Thread(target=_load, args=given, name="rlm-wasm-preload", daemon=True).start()


def _load(policy_name: str, inline: bool, image: str | None) -> None:
    try:
        from rlm_wasm.policy.extends import sandbox_at_a_glance

        image = image or str(sandbox_at_a_glance(policy_name, "image") or BASE_IMAGE)
        if inline or sandbox_at_a_glance(policy_name, "isolation") == "inline":
            from rlm_wasm.inline.guest_loader import load_guest_program

            load_guest_program(image)
        else:
            from rlm_wasm.host.zygote_launch import prelaunch

            prelaunch(image)
    except Exception:  # noqa: BLE001, S110 - told by the caller's own attempt
        pass

"""``--image NAME``: which packages a command's sessions have, whatever its policy says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rlm_wasm.policy.model import Policy

image_option: Final = click.option(
    "--image", "image", metavar="NAME",
    help="Use the packages of this image, in the place of the policy's `sandbox.image`.",
)  # fmt: skip


def with_image(policy: Policy, image: str | None) -> Policy:
    """Return the policy with another image, if one is named. Raises PolicyError: that is no image's name."""
    return policy if image is None else policy.replace(sandbox={"image": image})

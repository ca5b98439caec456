"""Compares a module's imports and exports with the manifest: the boundary is exactly what is listed."""

from __future__ import annotations

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.manifest import Boundary
from rlm_wasm.vm.wasm_format import read_exports, read_imports


def check_boundary(module: bytes, boundary: Boundary) -> None:
    """Return if `module` imports and exports exactly what `boundary` lists.

    Raises:
        GuestBuildError: names every difference. ArtifactError: `module` is not wasm.
    """
    wanted = {f"{boundary.module}.{name} (func)" for name in boundary.imports}
    imports = [f"{source}.{name} ({kind})" for source, name, kind in read_imports(module)]
    exports = [name for name, _ in read_exports(module)]
    listed = set(boundary.exports)
    problems = [f"imports {name}, which is not listed" for name in sorted(set(imports) - wanted)]
    problems += [f"does not import {name}" for name in sorted(wanted - set(imports))]
    problems += [f"imports {name} twice" for name in sorted({n for n in imports if imports.count(n) > 1})]
    problems += [f"exports {name}, which is not listed" for name in sorted(set(exports) - listed)]
    problems += [f"does not export {name}" for name in sorted(listed - set(exports))]
    if problems:
        raise GuestBuildError(
            "the guest's boundary is not what guest/manifest.toml lists:"
            + "".join(f"\n  it {problem}" for problem in problems)
        )

"""Packages of one file, installed beside graphcnf for a while."""

from contextlib import contextmanager

import pytest


@contextmanager
def installed(place, module, code, names, *registries):
    """Install a package as an installer leaves it: a module, and entry points.

    Args:
        place: An empty folder, which becomes a place of packages.
        module: Name of the module.
        code: Its code.
        names: Addresses by name, by group of entry points.
        *registries: Registries that look for entry points anew, here and afterwards.
    """
    info = place / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    lines = []
    for group, addresses in names.items():
        lines += [f"[{group}]", *(f"{name} = {address}" for name, address in addresses.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (place / f"{module}.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        for registry in registries:
            patch.delitem(registry.__dict__, "plugins", raising=False)
        yield
    for registry in registries:
        registry.__dict__.pop("plugins", None)

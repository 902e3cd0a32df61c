"""Versions and processor of a process: others may round otherwise."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

PACKAGES = ("graphcnf", "numpy", "rdkit", "torch")


@cache
def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions of packages, and the processor that a torch device is."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {
        "versions": {package: version(package) for package in PACKAGES},
        "processor": [name, torch.backends.cpu.get_cpu_capability()],
    }

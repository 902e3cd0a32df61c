"""The one training loop, its settings and presets. Lightning is imported when a run starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcnf.training.configuration import load_preset, preset_names
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.training.experiment import Experiment, FitResult
    from graphcnf.training.loop import fit

__all__ = ["Experiment", "FitResult", "TrainingSettings", "fit", "load_preset", "preset_names"]


def __getattr__(name: str) -> Any:
    # The command line reads presets and settings within milliseconds; torch and Lightning wait.
    if name in ("Experiment", "FitResult"):
        from graphcnf.training import experiment

        return getattr(experiment, name)
    if name == "fit":
        from graphcnf.training.loop import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The one training loop, its settings and presets. Lightning is imported when a run starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcnf.training.configuration import load_preset, preset_names
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.training.experiment import Experiment
    from graphcnf.training.loop import FitResult, fit

__all__ = ["Experiment", "FitResult", "TrainingSettings", "fit", "load_preset", "preset_names"]


def __getattr__(name: str) -> Any:
    # The command line reads presets and settings within milliseconds; torch and Lightning wait.
    if name == "Experiment":
        from graphcnf.training.experiment import Experiment

        return Experiment
    if name in ("fit", "FitResult"):
        from graphcnf.training import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The one training loop, its settings and presets. Lightning is imported when a run starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcnf.training.settings import Experiment, TrainingSettings, load_preset, preset_names

if TYPE_CHECKING:
    from graphcnf.training.loop import FitResult, fit

__all__ = ["Experiment", "FitResult", "TrainingSettings", "fit", "load_preset", "preset_names"]


def __getattr__(name: str) -> Any:
    # The command line reads presets and settings within milliseconds; Lightning waits.
    if name in ("FitResult", "fit"):
        from graphcnf.training import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

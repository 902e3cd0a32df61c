"""The training loop with its settings and presets, and fine-tuning of trained models.

`fit` trains what an `Experiment` holds, as `TrainingSettings` say; `fit_preset` makes the
experiment from a TOML file.
"""

from graphcnf.training.settings import (
    Batch,
    Experiment,
    Trainable,
    TrainingSettings,
    load_preset,
    preset_names,
)

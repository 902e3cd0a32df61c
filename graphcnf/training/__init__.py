"""The training loop, its settings and presets."""

from graphcnf.training.settings import (
    Batch,
    Experiment,
    Trainable,
    TrainingSettings,
    load_preset,
    preset_names,
)

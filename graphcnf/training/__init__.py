"""The training loop, its settings and presets."""

from graphcnf.training.settings import Experiment, TrainingSettings, load_preset, preset_names

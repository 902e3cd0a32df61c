"""The one training loop, its settings and presets; `graphcnf.fit` imports the loop."""

from graphcnf.training.settings import Experiment, TrainingSettings, load_preset, preset_names

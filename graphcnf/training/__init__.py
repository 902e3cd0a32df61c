"""The training loop with its settings and presets, and fine-tuning of trained models.

`graphcnf.training.loop.fit` trains what an `Experiment` holds, as `TrainingSettings` say.
`graphcnf.training.experiments.fit_preset` makes the experiment from a *preset*, a TOML file that
names a model, its data and the settings. `graphcnf.training.finetuning.finetune` continues a
trained model on a user's molecules.
"""

from graphcnf.training.settings import (
    Batch,
    Experiment,
    Trainable,
    TrainingSettings,
    load_preset,
    preset_names,
)

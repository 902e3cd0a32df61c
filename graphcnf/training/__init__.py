"""The training loop with its settings and presets, and fine-tuning of trained models.

`fit` trains what an `Experiment` holds, as `TrainingSettings` say. `fit_preset` makes the
experiment from a *preset*, a TOML file that names a model, its data and the settings. `finetune`
continues a trained model on a user's molecules.
"""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "fit_preset": "experiments",
        "FineTuning": "finetuning",
        "finetune": "finetuning",
        "History": "history",
        "FitResult": "loop",
        "fit": "loop",
        "Batch": "settings",
        "Experiment": "settings",
        "Trainable": "settings",
        "TrainingSettings": "settings",
        "load_preset": "settings",
        "preset_names": "settings",
    },
)

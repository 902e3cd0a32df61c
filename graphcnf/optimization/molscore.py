"""Scores of MolScore (Thomas et al. 2024, J. Cheminform. 16, 64): docking, QSAR and others.

The package and what its configurations need are installed by who uses them; every process makes a
`MolScore` of its own, in a temporary folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from graphcnf.compute.files import read_file, read_json
from graphcnf.errors import UserError
from graphcnf.optimization.objectives import Goal


class MolScoreFunction:
    """The score of a MolScore configuration, one molecule at a time.

    Args:
        config: The JSON file.
    """

    __name__ = "molscore"

    def __init__(self, config: Path):
        self.config = config.resolve()
        self.identity = f"molscore {hashlib.sha256(read_file(self.config)).hexdigest()}"
        self._scorer: Any = None

    def __getstate__(self):
        return {**self.__dict__, "_scorer": None}

    def __call__(self, smiles: str) -> float:
        """Score of a SMILES."""
        if self._scorer is None:
            from molscore import MolScore

            folder = tempfile.mkdtemp(prefix="graphcnf-molscore-")
            self._scorer = MolScore(
                model_name="graphcnf", task_config=str(self.config), output_dir=folder
            )
        return self._scorer.score([smiles], flt=True, score_only=True)[0]


def molscore_goal(config: str) -> Goal:
    """A goal from a MolScore configuration.

    Raises:
        UserError: There is no such file, it is no JSON, or the package is missing.
    """
    path = Path(config)
    try:
        read_json(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None
    if importlib.util.find_spec("molscore") is None:
        raise UserError("molscore:CONFIG needs the package molscore: pip install molscore")
    return Goal([{"score": MolScoreFunction(path), "name": "molscore"}], source=f"{path}")

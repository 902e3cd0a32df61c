"""The score `molscore`: a configuration of the package MolScore as a score of one molecule.

A *configuration* is MolScore's JSON file that names metrics and how they are combined. MolScore
itself scores batches, writes each to a folder, and may penalize molecules that resemble earlier
ones (its diversity filter). Here it scores molecules one by one, in a temporary folder and without
that filter, since a score must depend on the molecule alone.
"""

from __future__ import annotations

import atexit
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from graphcnf.data_files import installed_file
from graphcnf.errors import UserError
from graphcnf.file_reading import read_json
from graphcnf.messages import described


def molscore(*, config: str) -> Callable[[str], float]:
    """Return a score: what a configuration of MolScore gives for a molecule; needs molscore.

    Args:
        config: File of a configuration (`.json`), or a preset of MolScore such as
            "GuacaMol:Albuterol_similarity".
    """
    content = _content(config)
    try:
        from molscore import MolScore
    except ImportError as error:
        raise UserError(
            f"molscore:{config} needs molscore: pip install molscore ({error})"
        ) from None

    folder = TemporaryDirectory(prefix="graphcnf-molscore-")
    path = Path(folder.name, "config.json")
    path.write_text(json.dumps({**content, "diversity_filter": {"run": False}}))
    try:
        with redirect_stdout(StringIO()):  # It prints what it could not import.
            scorer = MolScore("graphcnf", str(path), output_dir=folder.name, add_run_dir=False)
    except Exception as error:
        raise UserError(f"molscore:{config}: {described(error)}") from None
    atexit.unregister(scorer.write_scores)  # there is nothing to write

    def score(smiles: str) -> float:
        assert folder  # It is deleted with this function.
        with warnings.catch_warnings():  # of pandas
            warnings.simplefilter("ignore")
            scorer.run_scoring_functions(smiles=[smiles], file_names=["0_0"])
            scored = scorer.compute_score(scorer.results_df)
        return float(scored[scorer.cfg["scoring"]["method"]].iloc[0])

    return score


def _content(config: str) -> dict[str, Any]:
    """Read a configuration, and check that its score depends on one molecule alone."""
    path: Path | None = Path(config)
    if not config.endswith(".json"):
        category, _, task = config.partition(":")
        if not task or not (category + task).replace("_", "").replace("-", "").isalnum():
            raise UserError(
                f"molscore:{config}: write a file.json, or a preset such as "
                "molscore:GuacaMol:Albuterol_similarity"
            )
        path = installed_file("molscore", "configs", category, f"{task}.json")
    if path is None:
        raise UserError(f"molscore:{config}: no such preset, or molscore is not installed")
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"molscore:{config}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, dict):
        raise UserError(f"molscore:{config}: must hold a JSON object")
    try:
        metrics = content.get("scoring", {}).get("metrics", [])
        of_the_batch = any(
            metric["modifier"] == "norm" and not {"max", "min"} <= set(metric["parameters"])
            for metric in metrics
        )
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f'molscore:{config}: "scoring" must hold "metrics", each with "modifier" and '
            '"parameters"'
        ) from None
    if of_the_batch:
        raise UserError(
            f"molscore:{config}: the modifier norm needs max and min, since a score must not "
            "depend on the molecules before"
        )
    return content

"""`MoleculeTransformer`, a step of a scikit-learn pipeline that turns SMILES into numbers.

The numbers are those of a trained `MoleculeFlow`: its *latents*, the continuous variables of each
atom, or its log-likelihood.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from graphcnf.discrete.adapters import Refused
from graphcnf.errors import suggest
from graphcnf.flows.transform import RecordNoise
from graphcnf.graphs.batch import GraphBatch
from graphcnf.molecule_flow import MoleculeFlow

OUTPUTS = ("latents", "log_likelihood")
"""Kinds of numbers that a `MoleculeTransformer` can return."""


class MoleculeTransformer(TransformerMixin, BaseEstimator):
    """Turn SMILES into latents of a trained model, or into their log-likelihood under it.

    It is a transformer of scikit-learn. `fit` learns nothing; it loads the model. The numbers of a
    molecule depend on the molecule and the model alone.

    Args:
        model: Name of shipped weights, or a folder of a model.
        output: "latents" or "log_likelihood". Latents are those of each atom in the canonical order
            of atoms, with zeros after the last atom. M molecules give (M, N D), where N is the
            largest number of atoms of the model, and D its number of latents per atom. The
            log-likelihood is the lower bound on log p(molecule) that `MoleculeFlow.log_prob`
            returns, in nats, (M, 1).

    Examples:
        >>> MoleculeTransformer().fit_transform(["CCCCCO", "c1ccccc1O"]).shape
        (2, 342)
        >>> MoleculeTransformer(output="log_likelihood").fit_transform(["CCCCCO"]).shape
        (1, 1)
    """

    def __init__(self, model: str | Path = "zinc250k", output: str = "latents"):
        self.model, self.output = model, output

    def fit(self, X: Any = None, y: Any = None) -> MoleculeTransformer:
        """Load the model; nothing is learned from the molecules."""
        if self.output not in OUTPUTS:
            known = suggest(str(self.output), list(OUTPUTS))
            raise Refused(f"unknown output {self.output!r}{known}")
        self.flow_ = MoleculeFlow.from_pretrained(self.model)
        return self

    def transform(self, X: Iterable[Any]) -> np.ndarray:
        """Return numbers of molecules, (M, N D) or (M, 1), as `output` says; first call `fit`.

        SMILES are a list, a Series, an array (M,) or (M, 1), or a DataFrame of one column.
        """
        check_is_fitted(self)
        smiles = _texts(X)
        if self.output == "latents":
            return self._latents(smiles)
        nats = self.flow_.log_prob(smiles)
        for number in np.flatnonzero(np.isneginf(nats)):
            raise Refused(f"molecule {number}: {self.flow_.score(smiles[number]).reason[0]}")
        return nats[:, None]

    def _latents(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the latents of molecules, with zeros after the last atom."""
        model = self.flow_.model
        graphs, reasons = self.flow_.graphs(smiles)
        for number, reason in enumerate(reasons):
            if reason is not None:
                raise Refused(f"molecule {number}: {reason}")
        found: np.ndarray | None = None
        for size in np.unique(graphs.node_counts):  # noise depends on the padding
            chosen = np.flatnonzero(graphs.node_counts == size)
            batch = GraphBatch.collate(graphs, chosen).to(model.device)
            for number in (~model.knows(batch)).nonzero().flatten().tolist():
                raise Refused(f"molecule {chosen[number]}: {model.why_unknown}")
            # The same noise for every molecule, so that its latents do not depend on the others.
            (latents,) = model.encode(batch, RecordNoise(0, [0] * len(batch))).values()
            part = latents.double().cpu().numpy()
            if found is None:
                found = np.zeros((len(graphs), model.max_nodes, part.shape[-1]))
            found[chosen, : part.shape[1]] = part
        if found is None:
            raise Refused("there are no molecules to encode: 0 samples")
        return found.reshape(len(graphs), -1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return names of the columns: "latent_0_2" (latent 2 of atom 0), or "log_likelihood"."""
        check_is_fitted(self)
        if self.output == "log_likelihood":
            return np.array(["log_likelihood"], dtype=object)
        width = self._latents(["C"]).shape[1] // self.flow_.model.max_nodes
        atoms = range(self.flow_.model.max_nodes)
        return np.array([f"latent_{atom}_{k}" for atom in atoms for k in range(width)], object)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        tags.requires_fit = True
        return tags


def _texts(molecules: Any) -> list[str]:
    """Read a column of SMILES in any form that scikit-learn passes on."""
    if isinstance(molecules, str):
        raise Refused("give a list of SMILES, not one")
    shape = np.shape(molecules)
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise Refused(f"give one column of SMILES, not the shape {shape}")
    if isinstance(molecules, pd.DataFrame | pd.Series | np.ndarray):
        return np.asarray(molecules, dtype=object).ravel().tolist()
    return [text[0] if isinstance(text, list | tuple) else text for text in molecules]

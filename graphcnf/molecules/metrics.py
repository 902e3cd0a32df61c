"""Validity, uniqueness and novelty, under several conventions side by side.

A convention says when a sampled graph counts as a valid molecule (see `validity`):

- `strict`: it sanitizes as it is and is connected; the headline figure.
- `largest_fragment`: its largest fragment sanitizes ("+ sub-graphs", Lippe & Gavves 2021).
- `valence_only`: it sanitizes after automatic N+, O+, S+, fragments allowed (GDSS, DiGress, DeFoG).
- `repaired`: after valence repair; about 1 by construction, so it says nothing about a model.

Uniqueness is distinct / valid, novelty is (valid and not in the training set) / valid, V.U.N. is
(distinct, valid and not in the training set) / samples. A fraction of nothing is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rdkit import Chem

from graphcnf.graphs.packed import PackedGraphs
from graphcnf.molecules import validity
from graphcnf.molecules.codec import graph_to_molecule
from graphcnf.molecules.hashing import hash_smiles
from graphcnf.molecules.smiles import UnparsableSmiles, parse, quiet
from graphcnf.molecules.tally import CONVENTIONS, Block, Tally, share
from graphcnf.molecules.vocabulary import MoleculeVocabulary


def molecules(
    samples: PackedGraphs | Iterable[Chem.Mol | str | None],
    vocabulary: MoleculeVocabulary | None = None,
) -> Iterable[Chem.Mol | None]:
    """Unsanitized molecules of packed graphs, of SMILES (None where unreadable), or as given.

    Raises:
        ValueError: Packed graphs without a vocabulary.
    """
    if isinstance(samples, PackedGraphs):
        if vocabulary is None:
            raise ValueError("packed graphs need the vocabulary that their categories refer to")
        for k in range(len(samples)):
            yield graph_to_molecule(*samples.graph(k), vocabulary)
        return
    for sample in samples:
        if isinstance(sample, str):
            # The SMILES counts as it is written: aromatic atoms stay so until sanitization.
            try:
                with quiet():
                    mol = parse(sample, sanitize=False)
            except UnparsableSmiles:
                mol = None
            yield mol
        else:
            yield sample


def evaluate_records(
    samples: PackedGraphs | Iterable[Chem.Mol | str | None],
    vocabulary: MoleculeVocabulary | None = None,
    *,
    first: int = 0,
    conventions: Sequence[str] = CONVENTIONS,
) -> pd.DataFrame:
    """One row per sample.

    Args:
        samples: Packed graphs, molecules (sanitized or not; None counts as invalid) or SMILES.
        vocabulary: Of packed graphs.
        first: Record number of the first sample.
        conventions: From `CONVENTIONS`; strict and largest_fragment are always there, and the
            others take time where a sample is not valid.

    Returns:
        The columns `record`; `smiles` (canonical and without stereo where valid, else written
        unsanitized, None where nothing can be written); `strict` (bool); `largest_fragment` (its
        SMILES or None); `atoms`; `kept` (share of the atoms in the largest fragment); and one
        column of SMILES or None per further convention.
    """
    unknown = set(conventions) - set(CONVENTIONS)
    if unknown:
        raise ValueError(f"no convention {sorted(unknown)[0]!r}: choose from {CONVENTIONS}")
    extra = [c for c in ("valence_only", "repaired") if c in conventions]
    rows = []
    for record, mol in enumerate(molecules(samples, vocabulary), first):
        if mol is None:
            row: tuple = (record, None, False, None, 0, 0.0, *(None for _ in extra))
        else:
            fragment, kept = validity.largest_fragment(mol)
            # A connected molecule is its own largest fragment.
            valid = fragment is not None and kept == 1
            row = (
                record,
                fragment if valid else unsanitized_smiles(mol),
                valid,
                fragment,
                mol.GetNumAtoms(),
                kept,
                *(fragment if valid else getattr(validity, c)(mol) for c in extra),
            )
        rows.append(row)
    columns = ["record", "smiles", "strict", "largest_fragment", "atoms", "kept", *extra]
    frame = pd.DataFrame(rows, columns=columns)
    texts = ["smiles", "largest_fragment", *extra]
    frame[texts] = frame[texts].astype(object).where(frame[texts].notna(), None)
    return frame.astype({"strict": bool, "atoms": "int64", "kept": float, "record": "int64"})


def summarize(records: pd.DataFrame, training_hashes: np.ndarray | None = None) -> dict:
    """Figures of `evaluate_records`, fractions in [0, 1] with their denominators.

    Args:
        records: One row per sample, in all conventions.
        training_hashes: Sorted `hash_smiles` of the training set; None leaves novelty out (None).

    Returns:
        `samples`; `strict_validity`, `largest_fragment_validity`, `largest_fragment_atom_share`
        (mean of the share of atoms in the largest fragment over samples that are valid in this
        convention); `uniqueness`, `novelty`, `vun` in the strict convention with the counts
        `strict_valid`, `strict_unique`, `strict_novel`; the same for every other convention under
        its name, as `largest_fragment_uniqueness`; `uniqueness_at_1000` and `uniqueness_at_10000`,
        among the first so many strictly valid ones, None where there are fewer.
    """
    tally = Tally(training_hashes)
    tally.add(Block.of(records))
    return tally.figures()


def validity_table(summary: Mapping[str, Any]) -> pd.DataFrame:
    """The conventions side by side, one row each, from the figures of `summarize`.

    Returns:
        Indexed by convention, the columns `samples`, `valid`, `validity` (of the samples),
        `unique`, `uniqueness` (of the valid), `novel`, `novelty` (of the valid) and `vun` (of the
        samples); the last three hold None without training hashes.
    """
    rows = {}
    for convention in CONVENTIONS:
        prefix = "" if convention == "strict" else f"{convention}_"
        names = {"samples": "samples", "vun": f"{prefix}vun"}
        names |= {k: f"{convention}_{k}" for k in ("valid", "validity", "unique", "novel")}
        names |= {k: f"{prefix}{k}" for k in ("uniqueness", "novelty")}
        order = ("samples", "valid", "validity", "unique", "uniqueness", "novel", "novelty", "vun")
        rows[convention] = {k: summary[names[k]] for k in order}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("convention")


def evaluate(
    samples: PackedGraphs | Iterable[Chem.Mol | str | None],
    vocabulary: MoleculeVocabulary | None = None,
    *,
    training_hashes: np.ndarray | None = None,
) -> dict:
    """`summarize` of `evaluate_records`.

    Examples:
        >>> figures = evaluate(["CCO", "OCC", "CC.O", "C(C)(C)(C)(C)C"])
        >>> figures["strict_validity"], figures["uniqueness"]
        (0.5, 0.5)
        >>> figures["largest_fragment_validity"]
        0.75
    """
    return summarize(evaluate_records(samples, vocabulary), training_hashes)


def data_ceiling(
    packed: PackedGraphs,
    smiles: Sequence[str],
    vocabulary: MoleculeVocabulary,
    *,
    training_hashes: np.ndarray | None = None,
) -> dict:
    """The row "training data through the same pipeline": what no model in this coding can beat.

    Args:
        packed: The graphs of real molecules.
        smiles: Their canonical SMILES without stereo.
        vocabulary: Meaning of the categories.
        training_hashes: As in `summarize`; None takes those of `smiles`, so that novelty is 0
            except for molecules that the coding changed.

    Returns:
        As `summarize`, and `reconstruction`: the share of molecules that come back as they were.
    """
    if len(packed) != len(smiles):
        raise ValueError(f"{len(packed)} graphs, but {len(smiles)} SMILES")
    records = evaluate_records(packed, vocabulary)
    hashes = hash_smiles(smiles) if training_hashes is None else training_hashes
    same = sum(
        valid and a == b
        for valid, a, b in zip(records["strict"], records["smiles"], smiles, strict=True)
    )
    return {**summarize(records, hashes), "reconstruction": share(same, len(packed))}


def unsanitized_smiles(mol: Chem.Mol) -> str | None:
    """SMILES of a molecule as it is, valid or not; None where RDKit cannot write it."""
    try:
        with quiet():
            mol = Chem.Mol(mol)
            mol.UpdatePropertyCache(strict=False)
            return Chem.MolToSmiles(mol) or None
    except (RuntimeError, ValueError):
        return None

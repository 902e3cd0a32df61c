"""Structural alerts: groups for which chemists discard a molecule.

An *alert* is a pattern with a name, and a *catalogue* a set of alerts. The catalogue "reactive",
`reactive.toml` beside this file, has the groups that react with water, air or proteins, or fall
apart; the others are RDKit's, and those of the package medchem.

What the user gives himself is wanted, such as a covalent warhead: an alert of "reactive" that lies
wholly in the *given* fragment or molecule does not count.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from graphcnf.errors import UserError, require, suggest
from graphcnf.molecules.codec import parse_smarts

REACTIVE = "reactive"

ALERTS = (REACTIVE, "pains", "brenk", "nih", "chembl")
"""The catalogues: that of this package, and RDKit's (`FilterCatalogParams.FilterCatalogs`)."""

MEDCHEM = "medchem:"
"""Begins the name of a catalogue of medchem (`medchem.catalogs.NamedCatalogs`), "medchem:nibr"."""

NONE = "none"
"""Name that stands for no catalogue, where one is the default."""


class ReactiveGroup(NamedTuple):
    """An alert of "reactive" in a molecule.

    Attributes:
        name: Name of the alert.
        atoms: Numbers of its atoms, ascending.
        smiles: SMILES of these atoms and the bonds between them.
    """

    name: str
    atoms: tuple[int, ...]
    smiles: str


class Given(NamedTuple):
    """What the user gives, whose reactive groups do not count.

    Attributes:
        parts: Function that finds a given fragment in a molecule: it returns the atoms of each
            match. None without a fragment.
        molecules: SMILES of given molecules: another one may have the reactive groups of one of
            them, as many of each.
    """

    parts: Callable[[Chem.Mol], Iterable[Collection[int]]] | None = None
    molecules: tuple[str, ...] = ()

    @classmethod
    def of(cls, molecules: Iterable[str], parts: Any = None) -> Given:
        """Return what is given; of given molecules, those that have reactive groups.

        Args:
            molecules: SMILES of given molecules. Those without reactive groups excuse nothing, and
                are left out.
            parts: See `Given`.

        Returns:
            What is given; equal to `NOTHING` if no molecule has a reactive group and `parts` is
            None.
        """
        return cls(parts, tuple(smiles for smiles in molecules if _counts(smiles)))


NOTHING = Given()


_LIST = Path(__file__).with_name("reactive.toml")


def reactive_digest() -> str:
    """Return the SHA-256 of the list of reactive groups, which differs when it is changed."""
    return hashlib.sha256(_LIST.read_bytes()).hexdigest()


@cache
def reactive_alerts() -> list[tuple[str, Chem.Mol]]:
    """Read the catalogue "reactive".

    Returns:
        Name and pattern of each alert.
    """
    rows = tomllib.loads(_LIST.read_text(encoding="utf-8"))["alert"]
    return [(row["name"], parse_smarts(row["smarts"])) for row in rows]


def reactive_groups(molecule: Chem.Mol) -> list[ReactiveGroup]:
    """Return the reactive groups of a sanitized molecule: each match of an alert of "reactive".

    Args:
        molecule: A sanitized molecule.

    Returns:
        The groups, with the numbers of their atoms; [] if it has none.
    """
    return [
        ReactiveGroup(name, tuple(sorted(atoms)), Chem.MolFragmentToSmiles(molecule, atoms))
        for name, pattern in reactive_alerts()
        for atoms in molecule.GetSubstructMatches(pattern)
    ]


@cache
def _counts(smiles: str) -> Counter[tuple[str, str]]:
    """Count the reactive groups of a given molecule by name and SMILES."""
    molecule = Chem.MolFromSmiles(smiles)
    return Counter((group.name, group.smiles) for group in reactive_groups(molecule))


def _reactive(molecule: Chem.Mol, given: Given) -> str:
    """Return the name of a reactive group of a molecule that is not given; "" if there is none.

    A group is given if all its atoms lie in a given fragment. The others together must be among
    those of one given molecule, as many of each.

    Args:
        molecule: A sanitized molecule.
        given: What the user gives.
    """
    groups = reactive_groups(molecule)
    if not groups:
        return ""
    places: Iterable[Collection[int]] = given.parts(molecule) if given.parts else ()
    left = groups
    for place in [(), *map(set, places)]:
        rest = [group for group in groups if not set(group.atoms) <= set(place)]
        found = Counter((group.name, group.smiles) for group in rest)
        if not rest or any(found <= _counts(smiles) for smiles in given.molecules):
            return ""
        left = min(left, rest, key=len)
    return left[0].name


def alerts_of(molecule: Chem.Mol, catalogue: str) -> dict[str, tuple[int, ...]]:
    """Return the alerts of a catalogue in a sanitized molecule, given or not.

    Args:
        molecule: The molecule.
        catalogue: One of `ALERTS`.

    Returns:
        `{name of the alert: atoms of all its matches}`; atoms are indices, ascending.
    """
    found: dict[str, set[int]] = {}
    if catalogue == REACTIVE:
        for group in reactive_groups(molecule):
            found.setdefault(group.name, set()).update(group.atoms)
    else:
        for entry in _catalog(catalogue).GetMatches(molecule):
            atoms = {k for match in entry.GetFilterMatches(molecule) for _, k in match.atomPairs}
            found.setdefault(entry.GetDescription(), set()).update(atoms)
    return {name: tuple(sorted(atoms)) for name, atoms in found.items()}


def alert_finder(catalogue: str) -> Callable[[Chem.Mol, Given], str]:
    """Return the function that finds an alert of a catalogue in a sanitized molecule.

    Args:
        catalogue: One of `ALERTS`, or "medchem:NAME".

    Returns:
        Function of the molecule and of what is given: the name of an alert, "" if there is none.

    Raises:
        UserError: There is no such catalogue, or medchem is not installed.
    """
    if catalogue == REACTIVE:
        return _reactive
    catalog = _catalog(catalogue)

    def found(molecule: Chem.Mol, given: Given) -> str:
        entry = catalog.GetFirstMatch(molecule)
        return "" if entry is None else entry.GetDescription()

    return found


@cache
def _catalog(name: str) -> FilterCatalog:
    """Return a catalogue of RDKit or medchem; `UserError` if there is none of this name."""
    if name in ALERTS:
        known: Any = FilterCatalogParams.FilterCatalogs
        return FilterCatalog(FilterCatalogParams(getattr(known, name.upper())))
    if not name.startswith(MEDCHEM):
        raise UserError(f"no catalogue of alerts {name!r}{suggest(name, list(ALERTS))}")
    require("medchem", f"a catalogue {name}", "alerts")
    from medchem.catalogs import NamedCatalogs, list_named_catalogs

    own = name.removeprefix(MEDCHEM)
    if own not in list_named_catalogs():
        raise UserError(f"no catalogue of medchem {own!r}{suggest(own, list_named_catalogs())}")
    return getattr(NamedCatalogs, own)()


def with_default(alerts: str | Sequence[str] | None) -> tuple[str, ...]:
    """Add the catalogue "reactive" to those that a user names, unless it is "none".

    Args:
        alerts: Names of catalogues; "none" for no catalogue at all, None for the default.

    Returns:
        The names, "reactive" first.

    Raises:
        UserError: "none" is named with others.
    """
    names = (alerts,) if isinstance(alerts, str) else tuple(alerts or ())
    if NONE in names and len(set(names)) > 1:
        raise UserError(f"alerts: {NONE} goes without others, got {', '.join(names)}")
    return () if NONE in names else tuple(dict.fromkeys((REACTIVE, *names)))

"""Structural alerts: groups for which chemists discard a molecule.

- *Alert*: a substructure pattern with a name, such as "peroxide".
- *Catalogue*: a set of alerts. "reactive" (the file `reactive.toml` beside this one) has the groups
  that react with water, air or proteins, or fall apart. Other catalogues are RDKit's, such as
  "pains", and those of the package medchem.
- *Reactive group*: a match of an alert of "reactive" in a molecule.
- *Given*: what the user gave: a fragment to grow, or molecules to start from. Its reactive groups,
  such as a covalent warhead, are wanted: the catalogue "reactive" does not count them.
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
    """A match of an alert of the catalogue "reactive" in a molecule."""

    name: str
    atoms: tuple[int, ...]
    smiles: str


class Given(NamedTuple):
    """What the user gave, whose reactive groups do not count as alerts.

    Attributes:
        parts: Function that finds the given fragment in a sanitized molecule: it returns the atom
            indices of each match. None if no fragment was given.
        molecules: SMILES of given molecules. A new molecule may have the same reactive groups as
            any one of these, and as many of each.
    """

    parts: Callable[[Chem.Mol], Iterable[Collection[int]]] | None = None
    molecules: tuple[str, ...] = ()

    @classmethod
    def of(cls, molecules: Iterable[str], parts: Any = None) -> Given:
        """Return what the user gave, without the molecules that have no reactive group."""
        return cls(parts, tuple(smiles for smiles in molecules if _counts(smiles)))


NOTHING = Given()


_LIST = Path(__file__).with_name("reactive.toml")


def reactive_digest() -> str:
    """Return the SHA-256 (hexadecimal) of the catalogue "reactive", to notice that it changed."""
    return hashlib.sha256(_LIST.read_bytes()).hexdigest()


@cache
def reactive_alerts() -> list[tuple[str, Chem.Mol]]:
    """Read the catalogue "reactive" from its file; later calls return the same list."""
    rows = tomllib.loads(_LIST.read_text(encoding="utf-8"))["alert"]
    return [(row["name"], parse_smarts(row["smarts"])) for row in rows]


def reactive_groups(molecule: Chem.Mol) -> list[ReactiveGroup]:
    """Find the reactive groups of a molecule: all matches of the alerts of "reactive"."""
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
    """Return the name of a reactive group of a molecule that is not given; "" if there is none."""
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
    """Find all alerts of a catalogue in a molecule, also those in what the user gave.

    The result is `{name of the alert: indices of the atoms of all its matches, ascending}`.
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
    """Return a function that names an alert of a catalogue that a molecule has.

    The function takes a sanitized molecule and a `Given`, which only "reactive" regards, and
    returns "" without an alert. "medchem:NAME" is a catalogue of the package medchem.
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
    """Return a catalogue of RDKit or medchem."""
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
    """Add the catalogue "reactive" to those that a user names, unless the user names "none".

    So `"pains" -> ("reactive", "pains")`, `"none" -> ()`.
    """
    names = (alerts,) if isinstance(alerts, str) else tuple(alerts or ())
    if NONE in names and len(set(names)) > 1:
        raise UserError(f"alerts: {NONE} goes without others, got {', '.join(names)}")
    return () if NONE in names else tuple(dict.fromkeys((REACTIVE, *names)))

"""Filters that every generated molecule has to pass, whichever command generates it.

- *Filter*: a condition on a molecule, such as "qed > 0.6". Its text is also its name.
- *Refusal*: the name of the first filter that a molecule fails; "" for a molecule that passes all.
- *Alert*: a substructure for which chemists discard a molecule; a *catalogue* is a set of alerts,
  such as "reactive" or "pains" (`graphcnf.chemistry.alerts`).
- *Given*: what the user gave, such as a fragment to grow. The reactive groups in it are wanted, so
  the catalogue "reactive" does not refuse them.
- *Search*: drawing molecules until enough distinct ones have passed. It ends early after too many
  *tries* in a row that found nothing new; that number is its *patience*.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar

from rdkit import Chem
from rdkit.DataStructs import BulkTanimotoSimilarity

from graphcnf.chemistry.alerts import (
    NOTHING,
    REACTIVE,
    Given,
    alert_finder,
    reactive_digest,
    with_default,
)
from graphcnf.chemistry.descriptors import RANGES
from graphcnf.chemistry.hashing import HashSet
from graphcnf.chemistry.properties import (
    ECFP4,
    Predictors,
    Requirement,
    check_possible,
)
from graphcnf.chemistry.standardize import protonation_hash
from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.records import blocks
from graphcnf.limits import is_number
from graphcnf.messages import counted, say
from graphcnf.molecules.codec import MoleculeNotRepresentable, parse, parse_smarts, quiet
from graphcnf.molecules.validity import CheckedMolecule

PATIENCE = 10_000
"""Consecutive records of a sample without a new molecule after which drawing is given up."""

PATIENCE_FACTOR = 10
"""Multiplies the patience of a search whose filters refuse more than half of the molecules."""

LISTED = 8
"""Most frequent alerts that a summary names."""

REMINDER = 10.0
"""Seconds without a new molecule after which a line says how many pass the filters."""

Neighbours = tuple[Sequence[str], float]
"""SMILES, and a bound on the Tanimoto similarity (ECFP4) to the nearest of these molecules."""

Item = TypeVar("Item")

Check = Callable[[Chem.Mol, Given], str]
"""Function of a molecule and of what the user gives; it returns "" if the molecule passes, else the
name of the filter, for catalogues of alerts followed by that of the alert."""

ALERT = ": "
"""Separates the name of a filter and that of an alert."""


@dataclass(frozen=True)
class Filters:
    """Conditions that a molecule has to meet, checked in the order below: fast ones first.

    Attributes:
        smarts: Patterns, all of which a molecule contains.
        exclude: Patterns, none of which it contains.
        min_similarity: (SMILES, lowest Tanimoto similarity (ECFP4) to the nearest of these).
        max_similarity: (SMILES, highest similarity to the nearest of these).
        alerts: Names of catalogues, or "medchem:NAME".
        predictors: For properties in `require` that RDKit cannot compute: functions from sanitized
            molecules to values, such as `graphcnf.chemistry.surrogate.surrogates_of` returns.

    Examples:
        >>> filters = Filters(require=["qed > 0.6"], exclude=["[N+](=O)[O-]"], alerts=["pains"])
        >>> filters.refusal(Chem.MolFromSmiles("CCO"))
        'qed > 0.6'
        >>> filters.refusal(Chem.MolFromSmiles("CC(=O)Nc1ccc(OC)cc1"))
        ''
    """

    smarts: Sequence[str] = ()
    exclude: Sequence[str] = ()
    require: Sequence[str] = ()
    min_similarity: Neighbours | None = None
    max_similarity: Neighbours | None = None
    alerts: Sequence[str] = ()
    predictors: Predictors = field(default_factory=dict)

    def __post_init__(self):
        for name in ("smarts", "exclude", "require", "alerts"):
            object.__setattr__(self, name, _several(getattr(self, name)))
        for name in ("min_similarity", "max_similarity"):
            if (given := getattr(self, name)) is not None:
                if not (isinstance(given, tuple) and len(given) == 2 and is_number(given[1])):
                    raise UserError(f"{name}: give molecules and a number, got {given!r}")
                object.__setattr__(self, name, (_several(given[0]), given[1]))
        for text in set(self.smarts) & set(self.exclude):
            raise UserError(f"{text} is wanted and excluded: nothing can pass")
        assert self.checks is not None  # reads all filters, and raises for bad ones

    def __bool__(self) -> bool:
        return bool(self.checks)

    def __getstate__(self) -> dict[str, Any]:
        # Without the checks, which cannot be pickled; another process builds its own.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def checks(self) -> dict[str, Check]:
        """The function that checks each single filter, by the name of the filter.

        They are built when they are first needed, in the order in which a molecule is checked.

        Names are such as "has c1ccccc1", "without [N+](=O)[O-]", "qed > 0.6" and "no pains alert".
        A function takes a sanitized molecule and a `Given`, and returns what `refusal` returns.
        """
        requirements = [Requirement.parse(text) for text in self.require]
        for wanted in requirements:
            wanted.check_names(self.predictors)
        check_possible(requirements)
        found: dict[str, Check] = {}
        for text in self.smarts:
            found[f"has {text}"] = _named(f"has {text}", _contains(text, True))
        for text in self.exclude:
            found[f"without {text}"] = _named(f"without {text}", _contains(text, False))
        for wanted in requirements:
            passes = partial(wanted.holds, predictors=self.predictors)
            found[str(wanted)] = _named(str(wanted), passes)
        for neighbours, sign in ((self.min_similarity, ">="), (self.max_similarity, "<=")):
            if neighbours is not None:
                name = f"similarity {sign} {neighbours[1]:g}"
                found[name] = _named(name, _is_near(*neighbours, sign == ">="))
        for name in self.alerts:
            found[f"no {name} alert"] = _without_alerts(name)
        return found

    def with_alerts(self, alerts: str | Sequence[str] | None) -> Filters:
        """Return these filters with further catalogues of alerts, "reactive" among them by default.

        None adds "reactive" alone, "none" not even that.
        """
        return replace(self, alerts=tuple(dict.fromkeys((*with_default(alerts), *self.alerts))))

    def check_sizes(self, largest: int) -> None:
        """Check that a molecule of a limited size can pass at all."""
        requirements = [Requirement.parse(text) for text in self.require]
        check_possible(requirements, {**RANGES, "atoms": (1, largest)})

    @property
    def identity(self) -> dict[str, str]:
        """A fingerprint of the filters, which a run saves, and compares when it is continued.

        JSON `{name in checks: text}`: the text tells filters of one name apart, such as a SHA-256
        of the molecules to compare with; it is "" where the name says all.
        """
        found = dict.fromkeys(self.checks, "")
        if REACTIVE in self.alerts:
            found[f"no {REACTIVE} alert"] = reactive_digest()
        for wanted in map(Requirement.parse, self.require):
            given = [self.predictors[n] for n in wanted.names if n in self.predictors]
            found[str(wanted)] = " ".join(getattr(one, "identity", repr(one)) for one in given)
        for neighbours, sign in ((self.min_similarity, ">="), (self.max_similarity, "<=")):
            if neighbours is not None:
                digest = hashlib.sha256("\n".join(neighbours[0]).encode()).hexdigest()
                found[f"similarity {sign} {neighbours[1]:g}"] = digest
        return found

    def refusal(self, mol: Chem.Mol, given: Given = NOTHING) -> str:
        """Return the first filter that a molecule fails; "" if it passes all.

        It is one of the names in `checks`; for a catalogue the alert follows, as in "no reactive
        alert: peroxide".
        """
        return next((why for check in self.checks.values() if (why := check(mol, given))), "")


def _several(given: str | Iterable[str]) -> tuple[str, ...]:
    """Check the names of filters, of which one may stand without a list."""
    several = (given,) if isinstance(given, str) else tuple(given)
    if wrong := [one for one in several if not isinstance(one, str)]:
        raise UserError(f"a filter is text, got {wrong[0]!r}")
    return several


NO_FILTERS = Filters()


def passing_shares(names: Iterable[str], outcomes: Mapping[str, int]) -> dict[str, float]:
    """Return for each filter the share that passes, of molecules that passed all before it."""
    refused = Counter[str]()
    for refusal, number in outcomes.items():
        refused[refusal.partition(ALERT)[0]] += number
    left, found = sum(outcomes.values()), {}
    for name in names:
        passed = left - refused[name]
        found[name] = passed / max(left, 1)
        left = passed
    return found


def removed_by_alerts(outcomes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Count the molecules that alerts have removed, the most frequent alert first.

    The result is such as `{"no reactive alert": {"peroxide": 3}}`. A molecule counts for the first
    alert found in it; `outcomes` counts refusals.
    """
    found: dict[str, dict[str, int]] = {}
    for refusal, number in sorted(outcomes.items(), key=lambda pair: (-pair[1], pair[0])):
        name, _, alert = refusal.partition(ALERT)
        if alert:
            found.setdefault(name, {})[alert] = number
    return found


def passing_text(names: Iterable[str], outcomes: Mapping[str, int]) -> str:
    """Say for the user what share passes all filters and each one, and what alerts removed.

    Such as "40.0% pass the filters (qed > 0.6 80.0%, no reactive alert 50.0%: removed 2 peroxide)",
    with at most 8 alerts of a filter (`LISTED`); "" without filters.
    """
    removed, each = removed_by_alerts(outcomes), []
    for name, share in passing_shares(names, outcomes).items():
        alerts = [f"{number:,} {alert}" for alert, number in removed.get(name, {}).items()]
        shown = ", ".join([*alerts[:LISTED], *(["…"] if len(alerts) > LISTED else [])])
        each.append(f"{name} {share:.1%}{shown and f': removed {shown}'}")
    share = outcomes.get("", 0) / max(sum(outcomes.values()), 1)
    return f"{share:.1%} pass the filters ({', '.join(each)})" if each else ""


class Funnel:
    """Collects the new molecules of a search, and ends it when nothing new is found.

    A search makes *tries*; each draws any number of molecules, and offers those that pass the
    filters to `distinct`. The search ends after `patience` tries in a row without a molecule that
    is new.

    Args:
        filters: Filters of the search.
        patience: Number of tries in a row; `math.inf` for a search that does not end. While the
            filters refuse more than half of the molecules, it is 10 times as large
            (`PATIENCE_FACTOR`).
        given: What the user gave, whose reactive groups are not refused.

    Attributes:
        filters: Filters of the search.
        given: What the user gave.
        outcomes: `{refusal: number of valid molecules}`, where a refusal is what `Filters.refusal`
            returns: "" for molecules that pass.
        seen: Hashes of the new molecules so far, a `HashSet`.
    """

    def __init__(self, filters: Filters, patience: float, given: Given = NOTHING):
        self.filters, self.outcomes, self.seen = filters, Counter[str](), HashSet()
        self.given, self._patience = given, patience

    @property
    def patience(self) -> float:
        """Number of tries in a row without a new molecule after which the search would end now."""
        strict = 2 * self.outcomes[""] < self.outcomes.total()
        return self._patience * (PATIENCE_FACTOR if strict else 1)

    def passes(self, molecule: Chem.Mol) -> bool:
        """Return True if a molecule passes the filters, and count it in `outcomes`.

        A repeated molecule counts again.
        """
        refusal = self.filters.refusal(molecule, self.given)
        self.outcomes[refusal] += 1
        return not refusal

    def distinct(self, tries: Iterable[Iterable[tuple[int, Item]]]) -> Iterator[Item]:
        """Yield the new molecules of a search; stop when its patience is exhausted.

        After every 10 seconds (`REMINDER`) without a new molecule, a line on stderr says how many
        pass the filters.

        Each try gives pairs of a hash and the item to yield; molecules of equal hashes are the
        same.
        """
        idle, since = 0, time.monotonic()
        for molecules in tries:
            before = len(self.seen)
            for hash_, item in molecules:
                if self.seen.add(hash_):
                    yield item
            now = time.monotonic()
            if len(self.seen) > before:
                idle, since = 0, now
                continue
            idle += 1
            if now - since >= REMINDER:
                self._remind(now - since)
                since = now
            if idle >= self.patience:
                return

    def _remind(self, seconds: float) -> None:
        """Say on stderr how long no new molecule has come up, and how many pass the filters."""
        valid = counted(self.outcomes.total(), "valid molecule")
        passed = passing_text(self.filters.checks, self.outcomes)
        passed = f"{valid} so far, of which {passed}" if passed else f"{valid} so far"
        say(f"note: no new molecule in the last {seconds:.0f} s; {passed}")

    def ending(self, kind: str = "molecules", size: int = 1) -> str:
        """Say how many molecules an ended search has found, and how many pass each filter.

        A clause such as "3 molecules found and no further one in 10,000 tries"; a try draws `size`
        molecules.
        """
        passed = passing_text(self.filters.checks, self.outcomes)
        return (
            f"{len(self.seen):,} {kind} found and no further one in {self.patience * size:,} tries"
            f"{passed and f'; of the valid ones {passed}'}"
        )


def _named(name: str, passes: Callable[[Chem.Mol], bool]) -> Check:
    """Return the check of a filter."""
    return lambda mol, _: "" if passes(mol) else name


def _contains(text: str, wanted: bool) -> Callable[[Chem.Mol], bool]:
    """Return the test that a molecule contains a SMARTS pattern, or does not."""
    pattern = parse_smarts(text)
    return lambda mol: mol.HasSubstructMatch(pattern) == wanted


def _is_near(molecules: Sequence[str], value: float, least: bool) -> Callable[[Chem.Mol], bool]:
    """Return the test of the Tanimoto similarity (ECFP4) to the nearest of some molecules."""
    if not 0 <= value <= 1:
        raise UserError(f"a Tanimoto similarity lies between 0 and 1, got {value:g}")
    if not molecules:
        raise UserError("there are no molecules to compare with")
    prints = []
    with quiet():
        for number, smiles in enumerate(molecules, 1):
            try:
                prints.append(ECFP4.GetFingerprint(parse(smiles)))
            except MoleculeNotRepresentable as error:
                raise UserError(f"molecule {number} to compare with: {error}") from None

    def passes(mol: Chem.Mol) -> bool:
        nearest = max(BulkTanimotoSimilarity(ECFP4.GetFingerprint(mol), prints))
        return nearest >= value if least else nearest <= value

    return passes


def _without_alerts(name: str) -> Check:
    """Return the check that a molecule matches no structural alert of a catalogue."""
    find = alert_finder(name)

    def check(mol: Chem.Mol, given: Given) -> str:
        alert = find(mol, given)
        return f"no {name} alert{ALERT}{alert}" if alert else ""

    return check


def passing(
    n: int, filters: Filters, draw: Callable[[range], tuple[PackedGraphs, list[CheckedMolecule]]]
) -> tuple[PackedGraphs, list[str | None]]:
    """Return the first n distinct molecules that pass filters, among the records of a sample.

    Molecules that differ in stereo marks or protonation alone count as the same. SMILES have stereo
    marks where `draw` draws them.
    """
    funnel = Funnel(filters, PATIENCE)

    def tries() -> Iterator[list[tuple[int, tuple[Any, str]]]]:
        for block in blocks(0):
            graphs, molecules = draw(block)
            for k, molecule in enumerate(molecules):
                smiles, isomer = molecule.smiles, molecule.isomer
                if smiles and isomer and funnel.passes(Chem.MolFromSmiles(smiles)):
                    yield [(protonation_hash(smiles), (graphs.graph(k), isomer))]
                else:
                    yield []

    found = list(islice(funnel.distinct(tries()), n))
    if len(found) < n:
        raise UserError(funnel.ending())
    return PackedGraphs.from_lists([graph for graph, _ in found]), [text for _, text in found]

"""A page of molecules for a meeting: one HTML file that needs no script, network or other file.

- *Card*: a headline figure at the top of the page, such as "mean QED"; at most five are shown.
- *Review*: clusters, alerts and nearest known molecules of the molecules on the page
  (`graphcnf.chemistry.review`). A *section* shows one of these.
- *Row*: a molecule of the table of all molecules at the end: `{column: value}`.
- *Caption*: the text below the drawing of a molecule.
- *Alert*: a substructure for which chemists discard a molecule.
- *Highlighted* atoms are marked with colour in a drawing.

Reports of evaluations (`graphcnf.evaluation.report`) are built from the same parts.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rdkit import Chem

from graphcnf.chemistry.drawing import draw_svg
from graphcnf.chemistry.hashing import contains, hash_each
from graphcnf.chemistry.review import CATALOGUES, DISTANCE, Review, review
from graphcnf.file_writing import write_file
from graphcnf.messages import counted

CARDS = 5
"""Headline figures at most."""

CLUSTERS, MEMBERS, EXAMPLES, PAIRS, WORST = 8, 4, 8, 12, 20
"""Largest numbers of clusters with several molecules, of members of each, of examples of alerts, of
pairs with a known molecule, and of worst molecules that are drawn."""

DRAWN = (240, 160)
"""Width and height of a drawing, which the page scales."""


class SortedCell(NamedTuple):
    """A value of a row that is shown as text and sorted by a number, such as "< 0.1 %" by 0.1."""

    text: str
    key: float

    def __str__(self) -> str:
        return self.text


class Card(NamedTuple):
    """A headline figure at the top of a page."""

    label: str
    value: str
    small: str = ""


class Shown(NamedTuple):
    """A molecule as the page shows it: a drawing with a caption, or a row of the table.

    Attributes:
        values: (name, text) of each value in the caption, or of each cell of the table's row.
        note: Text above the caption, such as "known".
        keys: Numbers by which the table is sorted; values without one sort by the number with which
            their text begins.
    """

    smiles: str
    drawing: Markup
    values: Sequence[tuple[str, str]] = ()
    note: str = ""
    keys: Mapping[str, float] = {}


def write_page(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    title: str,
    note: str = "",
    *,
    about: str = "",
    known: Sequence[str] = (),
    training_hashes: np.ndarray | None = None,
    highlights: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write a page of molecules: headline figures, a review, and a table of all molecules.

    Molecules are ranked by the column `score` if there is one, else by QED. The column `smiles` has
    valid molecules.

    Args:
        note: Text below the title.
        about: Text above the table.
        known: Known molecules, drawn beside the best ones; unreadable SMILES are passed over.
        training_hashes: Sorted hashes (`hash_each`), to show how many molecules are not among
            these.
        highlights: For each row the atoms to highlight, in the order of the SMILES.
    """
    smiles = [row["smiles"] for row in rows]
    scores = [row["score"] for row in rows] if rows and "score" in rows[0] else None
    found = review(smiles, scores, known)
    marks = highlights or [()] * len(rows)
    shown = [shown_row(row, atoms) for row, atoms in zip(rows, marks, strict=True)]
    cards = [Card("molecules", f"{len(rows):,}", "distinct and valid")]
    if training_hashes is not None and rows:
        new = float(np.mean(~contains(training_hashes, hash_each(smiles))))
        cards.append(Card("new", f"{new:.1%}", "not in the training set"))
    cards += review_cards(found, "QED" if scores is None else "score") if rows else []
    page = render(
        Path(__file__).with_name("molecules.html"),
        title=title,
        note=note,
        cards=cards[:CARDS],
        sections=sections(shown, found, "QED" if scores is None else "score", len(known)),
        about=about,
        molecules=[_with_review(one, found, k) for k, one in enumerate(shown)],
    )
    write_file(path, page.encode())


def render(template: Path, *, title: str, **values: Any) -> str:
    """Return the HTML of a page whose template extends `page.html`.

    The versions of graphcnf, RDKit and Python and the date are filled in.

    The template, in Jinja's language, can include those of its own and of this folder. `values` are
    its variables; `title` is also the heading unless they contain another.
    """
    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    versions = f"graphcnf {version('graphcnf')}, RDKit {version('rdkit')}, "
    return environment.get_template(template.name).render(
        title=title,
        versions=versions + f"Python {platform.python_version()}",
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        **{"heading": title, **values},
    )


def shown_row(row: Mapping[str, Any], highlight: Sequence[int] = ()) -> Shown:
    """Draw the molecule of a row, and write its values as text.

    Names are those of the columns, with spaces for underscores; `smiles` is left out.
    """
    named = {name: value for name, value in row.items() if name != "smiles"}
    return Shown(
        row["smiles"],
        drawing(row["smiles"], highlight),
        [(_plain(name), _text(value)) for name, value in named.items()],
        keys={_plain(k): cell.key for k, cell in named.items() if isinstance(cell, SortedCell)},
    )


def drawing(molecule: Chem.Mol | str, highlight: Sequence[int] = ()) -> Markup:
    """Draw a molecule as an SVG element for HTML.

    Its black lines have the colour of the surrounding text, so that they show on a dark page.
    """
    svg = draw_svg(molecule, size=DRAWN, highlight=highlight).split("?>")[-1].strip()
    return Markup(svg.replace("#000000", "currentColor"))


def review_cards(found: Review, quality: str) -> list[Card]:
    """Return the headline figures of a review, the most important first."""
    clean = sum(not alerts for alerts in found.alerted) / len(found.alerted)
    average = float(np.mean(found.quality))
    if quality == "score":
        first = Card("best score", f"{max(found.quality):.4g}", f"mean {average:.4g}")
    else:
        first = Card("mean QED", f"{average:.3f}", f"best {max(found.quality):.3f}")
    cards = [first, Card("without alerts", f"{clean:.1%}", _catalogues())]
    if found.nearest:
        similar = [one.similarity for one in found.nearest]
        mean = f"{np.mean(similar):.2f}"
        cards.append(Card("nearest known", mean, "mean similarity (Tanimoto, ECFP4)"))
    cards.append(Card("clusters", f"{len(found.clusters):,}", _cluster_rule()))
    if found.accessibility is not None:
        mean = f"{np.mean(found.accessibility):.2f}"
        cards.append(Card("mean SA", mean, "1 is easy to make, 10 hard"))
    return cards


def sections(shown: Sequence[Shown], found: Review, quality: str, known: int) -> dict[str, Any]:
    """Return the values of a review that the macro `reviewed` of `page_parts.html` shows.

    Each of four sentences opens what a section lists: "clustered" the "clusters" (dicts of "title"
    and "members"), "alerted" the "alerts" (dicts of "name", "catalogue", "count", "share", perhaps
    "example"), "compared" the "pairs" (dicts of "found", "known", "similarity"), and "struck" the
    "worst".
    """
    groups = [cluster for cluster in found.clusters if len(cluster) > 1]
    alone = [cluster[0] for cluster in found.clusters if len(cluster) == 1]
    drawn = [
        (f"Cluster of {len(cluster):,} molecules", cluster[:MEMBERS])
        for cluster in groups[:CLUSTERS]
    ]
    if alone:
        drawn.append((f"Like no other: the best of {len(alone):,}", alone[:MEMBERS]))
    clean = sum(not alerts for alerts in found.alerted)
    hard = "the hardest to make (SA)" if found.accessibility else "of the lowest QED"
    return {
        "clustered": (
            f"{counted(len(found.clusters), 'cluster')}, {len(alone):,} of a single molecule; "
            f"{_cluster_rule()} (Tanimoto, ECFP4). Ranked by {quality}: the cluster with the best "
            "molecule first, and of each the best ones."
        ),
        "clusters": [
            {"title": title, "members": [shown[k] for k in members]} for title, members in drawn
        ],
        "alerted": (
            f"{clean:,} of {counted(len(shown), 'molecule')} have none of the alerts of "
            f"{_catalogues()}. An alert is a reason to look, not a verdict."
        ),
        "alerts": _alerts(shown, found),
        "compared": (
            "The best molecule of each cluster, beside the nearest of "
            f"{counted(known, 'known molecule')}."
        ),
        "pairs": _pairs(shown, found),
        "struck": f"Those with the most alerts first, among equals {hard}.",
        "worst": [_with_faults(shown[k], found, k) for k in found.worst(WORST)],
    }


def _alerts(shown: Sequence[Shown], found: Review) -> list[dict[str, Any]]:
    """Return the rows of the table of alerts."""
    rows: list[dict[str, Any]] = []
    for alert in found.alerts:
        name, first = _plain(alert.name), alert.molecules[0]
        row: dict[str, Any] = {
            "name": name,
            "catalogue": alert.catalogue,
            "count": f"{len(alert.molecules):,}",
            "share": f"{len(alert.molecules) / len(shown):.1%}",
        }
        if len(rows) < EXAMPLES:
            smiles = shown[first].smiles
            atoms = found.alerted[first][alert.name]
            row["example"] = Shown(smiles, drawing(smiles, atoms), note=name)
        rows.append(row)
    return rows


def _pairs(shown: Sequence[Shown], found: Review) -> list[dict[str, Any]]:
    """Return the best molecules of the first clusters, each with the nearest known molecule."""
    if not found.nearest:
        return []
    pairs = []
    for number in [cluster[0] for cluster in found.clusters[:PAIRS]]:
        near = found.nearest[number]
        known = Shown(near.smiles, drawing(near.smiles), note="known")
        one = shown[number]._replace(note="found")
        pairs.append({"similarity": f"{near.similarity:.2f}", "found": one, "known": known})
    return pairs


def _with_faults(one: Shown, found: Review, number: int) -> Shown:
    """Return a molecule with its alerts highlighted in the drawing and named in the note."""
    alerts = found.alerted[number]
    atoms = sorted({atom for atoms in alerts.values() for atom in atoms})
    faults = [_plain(name) for name in alerts]
    if found.accessibility is not None:
        faults.append(f"SA {found.accessibility[number]:.1f}")
    else:
        faults.append(f"QED {found.drug_likeness[number]:.2f}")
    return one._replace(drawing=drawing(one.smiles, atoms), note=", ".join(faults))


def _with_review(one: Shown, found: Review, number: int) -> Shown:
    """Return a molecule with further values for its row of the table."""
    cluster = next(k for k, members in enumerate(found.clusters, 1) if number in members)
    alerts = ", ".join(map(_plain, found.alerted[number]))
    more = [("cluster", str(cluster)), ("alerts", alerts)]
    if found.nearest:
        more.append(("nearest known", f"{found.nearest[number].similarity:.2f}"))
    return one._replace(values=[*one.values, *more])


def _text(value: Any) -> str:
    """Write a value as text: "" for None and NaN, "yes" or "no", four digits of a float."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(name: str) -> str:
    """Return the name of an alert or a property without underscores."""
    return name.replace("_", " ")


def _catalogues() -> str:
    """Return the names of the catalogues of alerts in a sentence."""
    *most, last = ({"pains": "PAINS", "brenk": "Brenk"}.get(name, name) for name in CATALOGUES)
    return f"{', '.join(most)} and {last}"


def _cluster_rule() -> str:
    return f"similarity to the centre at least {1 - DISTANCE:g}"

"""The report of `graphcnf evaluate --html`: one page that needs no network."""

from __future__ import annotations

import base64
import html
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from graphcnf.compute.files import write_file
from graphcnf.errors import require
from graphcnf.evaluation.distances import Distances
from graphcnf.evaluation.formats import shown_columns
from graphcnf.evaluation.tables import Evaluation, all_notes, tables
from graphcnf.molecules import properties
from graphcnf.molecules.drawing import draw_svg
from graphcnf.molecules.failures import failures
from graphcnf.molecules.hashing import contains, hash_each
from graphcnf.molecules.metrics import molecules
from graphcnf.molecules.optional import Unavailable
from graphcnf.molecules.smiles import parse

if TYPE_CHECKING:
    from jinja2 import Template

MOLECULES = 200
"""Molecules in the table."""

REASONS, PER_REASON = 6, 4
"""Reasons of failure that are illustrated, and drawings of each."""

HERE = Path(__file__).parent
NEEDS = ("itables", "jinja2", "matplotlib")


def check_report() -> None:
    """Raise UserError without the packages that make the page."""
    for package in NEEDS:
        require(package, "--html", "report")


def write_report(results: Sequence[Evaluation], path: Path) -> None:
    """Write one page about one or several sets.

    Raises:
        UserError: The file cannot be written.
    """
    write_file(path, page(results).encode())


def page(results: Sequence[Evaluation]) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    template = page_template(HERE / "report.html")
    shown = [
        {"title": table.title, "columns": shown_columns(table.rows, table.columns)}
        for table in tables(results, published=True)
    ]
    # As wide as there are figures: better read from top to bottom.
    shown[0]["columns"] = [list(cells) for cells in zip(*shown[0]["columns"], strict=True)]
    name = ", ".join(result.main["name"] for result in results)
    most = -(-MOLECULES // len(results))
    distinct = [result.main["strict_unique"] for result in results]
    failed = [{"name": r.main["name"], "reasons": _failures(r)} for r in results]
    return template.render(
        name=name,
        title=f"{name}: evaluation of generated molecules",
        several=len(results) > 1,
        cards=_cards(results[0].main, results[0].data or {}) if len(results) == 1 else [],
        tables=shown,
        notes=all_notes(results, published=True),
        histograms=_histograms(results),
        failures=[entry for entry in failed if entry["reasons"]],
        molecules=Markup(_molecule_table(results, most)),
        molecules_shown=sum(min(most, count) for count in distinct),
        molecules_there=sum(distinct),
        versions=f"graphcnf {version('graphcnf')}, RDKit {version('rdkit')}, "
        f"Python {platform.python_version()}",
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def page_template(path: Path) -> Template:
    """A page's template, which may include those of this folder, such as the head of all pages."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader([path.parent, HERE]),
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(path.name)


def _cards(main: dict[str, Any], data: dict[str, Any]) -> list[dict[str, str]]:
    """Headline figures, with those of the training data below them."""
    forms = {
        "strict_validity": ("strictly valid", _percent),
        "uniqueness": ("unique", _percent),
        "novelty": ("novel", _percent),
        "vun": ("V.U.N.", _percent),
        "reconstruction": ("reconstructed", _percent),
        "bits_per_node": ("bits per node", "{:.3f}".format),
        "fcd": ("FCD", "{:.2f}".format),
    }
    return [
        {
            "label": label,
            "value": form(main[key]),
            "data": "" if data.get(key) is None else form(data[key]),
        }
        for key, (label, form) in forms.items()
        if main.get(key) is not None
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _histograms(results: Sequence[Evaluation]) -> list[dict[str, str]]:
    """A picture for each property and histogram that the sets have, with the held-out molecules.

    Sets that are held against other molecules have pictures of their own.
    """
    from graphcnf.evaluation.histograms import histogram_pictures

    groups: dict[str, list[tuple[str, Distances]]] = defaultdict(list)
    for result in results:
        if result.distances is not None:
            groups[result.main["reference"]].append((result.main["name"], result.distances))
    return [
        {"title": title, "source": picture_source(svg)}
        for sets in groups.values()
        for title, svg in histogram_pictures(sets)
    ]


def _failures(result: Evaluation) -> list[dict[str, Any]]:
    """Drawings of graphs that are no valid molecules, by reason, the most frequent first."""
    frame = result.frame
    failed = frame[~frame["strict"]]
    pictures: dict[str, list[dict[str, Any]]] = defaultdict(list)
    reasons = list(result.main["failures"])[:REASONS]
    for record, smiles in zip(failed["record"], failed["smiles"], strict=True):
        mol = next(iter(molecules([smiles])))
        for failure in failures(mol):
            wanted = failure.reason in reasons and len(pictures[failure.reason]) < PER_REASON
            if mol is not None and mol.GetNumAtoms() and wanted:
                source = picture_source(draw_svg(mol, size=(230, 170), highlight=failure.atoms))
                pictures[failure.reason].append(
                    {"source": source, "smiles": smiles, "record": int(record)}
                )
    return [
        {"reason": reason, "count": count, "pictures": pictures[reason]}
        for reason, count in result.main["failures"].items()
    ]


def _molecule_table(results: Sequence[Evaluation], most: int) -> str:
    """Valid molecules with pictures and properties; sorting and searching come with the table."""
    import itables
    from itables.javascript import generate_init_offline_itables_html

    rows = [row for result in results for row in _molecule_rows(result, most)]
    if not rows:
        return ""
    shown = pd.DataFrame(rows)
    if len(results) == 1:
        shown = shown.drop(columns="set")
    shown = shown.dropna(axis="columns", how="all")
    table = itables.to_html_datatable(
        shown, connected=False, allow_html=True, showIndex=False, maxBytes=0, maxColumns=0,
        classes="display compact molecules", lengthMenu=[10, 25, 100, MOLECULES],
        style="width:100%;margin:auto", display_logo_when_loading=False,
        text_in_header_can_be_selected=False,
    )  # fmt: skip
    return generate_init_offline_itables_html(itables.options.dt_bundle) + table


def _molecule_rows(result: Evaluation, most: int) -> Iterator[dict[str, Any]]:
    """Of the first distinct valid molecules of a set."""
    frame = result.frame[result.frame["strict"]]
    counts = frame["smiles"].value_counts()
    first = frame.drop_duplicates("smiles").head(most)
    known: list[str | None] = [None] * len(first)
    if result.training_hashes is not None:
        found = contains(result.training_hashes, hash_each(list(first["smiles"])))
        known = ["no" if k else "yes" for k in found]
    for record, smiles, novel in zip(first["record"], first["smiles"], known, strict=True):
        mol = parse(smiles)
        yield {
            "structure": f'<img alt="" width="200" height="130" src="'
            f'{picture_source(draw_svg(mol, size=(200, 130)))}">',
            "SMILES": f"<code>{smiles}</code>",
            "set": html.escape(result.main["name"]),
            "record": int(record),
            "times": int(counts[smiles]),
            "atoms": mol.GetNumAtoms(),
            "rings": mol.GetRingInfo().NumRings(),
            "weight": round(properties.weight(mol), 1),
            "logP": round(properties.logp(mol), 2),
            "QED": round(properties.qed(mol), 3),
            "SA": _sa(mol),
            "novel": novel,
        }


def _sa(mol) -> float | None:
    try:
        return round(properties.sa(mol), 2)
    except Unavailable:
        return None


def picture_source(content: str | bytes) -> str:
    """An SVG image, or PNG bytes, as the source of an `img`: identifiers inside cannot clash."""
    kind = "svg+xml" if isinstance(content, str) else "png"
    data = content.encode() if isinstance(content, str) else content
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

"""The `grow` command."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from graphcnf.errors import say
from graphcnf.scripts import _options as options
from graphcnf.scripts._options import option
from graphcnf.scripts._output import (
    check_shown,
    check_target,
    molecule_kind,
    show_molecules,
    write_found,
)


@options.grouped
def grow(
    *,
    scaffold: Annotated[
        str | None,
        option("Build around it: new atoms and rings anywhere.", metavar="SMILES|SMARTS"),
    ] = None,
    grow: Annotated[
        str | None,
        option(
            "Grow from its attachment points, as in [*:1]c1ccccc1, or from its hydrogens.",
            metavar="SMILES|SMARTS",
        ),
    ] = None,
    link: Annotated[
        str | None, option("Link two fragments, an attachment point in each.", metavar="A.B")
    ] = None,
    decorate: Annotated[
        str | None,
        option("New parts at its attachment points, nothing elsewhere.", metavar="SMILES"),
    ] = None,
    particles: options.Particles = None,
    draw: options.Draw,
    chosen: options.Filter,
) -> None:
    """Draw molecules around a fragment, which all of them keep as it is.

    They are distinct and valid, and the same ones for the same seed; a larger -n begins with the
    same molecules.
    """
    given = {"scaffold": scaffold, "grow": grow, "link": link, "decorate": decorate}
    tasks = [(name, text) for name, text in given.items() if text is not None]
    if len(tasks) != 1:
        both = " and ".join(f"--{name}" for name, _ in tasks)
        reason = f"{both} exclude each other" if tasks else "name the fragment"
        raise typer.BadParameter(f"{reason}: give one of --{', --'.join(given)}")
    kind, filters = molecule_kind(draw.out, draw.as_json), chosen.filters()
    check_target(draw.out, kind, draw.force)
    check_shown(draw)
    network = options.load_model(draw.model, draw.device)

    from graphcnf.molecules.filters import passing_shares, passing_text
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.molecules.growth import Growth, read_fragment
    from graphcnf.molecules.standardize import deviations

    ((task, text),) = tasks
    flow = MoleculeFlow(network)
    options.say_deviations(deviations([text], None), 1)
    fragment = read_fragment(text, task, flow.vocabulary)
    growth = Growth(
        network, flow.vocabulary, fragment, seed=draw.seed,
        temperature=draw.temperature, atoms=draw.size, particles=particles or options.PARTICLES,
        filters=filters,
    )  # fmt: skip
    distinct = {name: set() for name, _ in fragment.points}

    def groups(mol):
        found = fragment.groups(mol)
        for name, part in found.items():
            distinct[name].add(part)
        return found

    rows = write_found(growth.molecules(), draw, kind, dict.fromkeys(distinct, "string"), groups)
    show_molecules(flow, rows, draw, f"{len(rows)} molecules with {text}", fragment.match)
    share, passed = (
        growth.valid / max(growth.ended, 1),
        passing_text(filters.checks, growth.outcomes),
    )
    figures = {
        "written": draw.number, "distinct": draw.number, "walks": growth.walks,
        "placed": growth.ended, "valid": growth.valid,
    }  # fmt: skip
    sentence = (
        f"{draw.number:,} distinct molecules with {text}; {growth.ended:,} of {growth.walks:,} "
        f"walks placed all of it, {share:.1%} of these are valid{passed and f', of which {passed}'}"
    )
    if filters:
        figures["filters"] = passing_shares(filters.checks, growth.outcomes)
    if distinct:
        figures["groups"] = {name: len(parts) for name, parts in distinct.items()}
        shown = ", ".join(f"{len(parts):,} {name}" for name, parts in distinct.items())
        sentence += f"; distinct groups: {shown}"
    say(json.dumps(figures) if draw.as_json else sentence)

"""The `grow` command."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from graphcnf.errors import say
from graphcnf.scripts import _options as options
from graphcnf.scripts._options import option
from graphcnf.scripts._output import check_target, molecule_kind, write_found


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
    network = options.load_model(draw.model, draw.device)

    from graphcnf.molecules.filters import passing_shares, passing_text
    from graphcnf.molecules.growth import Growth, read_fragment
    from graphcnf.molecules.standardize import deviations
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    ((task, text),) = tasks
    vocabulary = MoleculeVocabulary.of_model(network)
    options.say_deviations(deviations([text], None), 1)
    growth = Growth(
        network, vocabulary, read_fragment(text, task, vocabulary), seed=draw.seed,
        temperature=draw.temperature, atoms=draw.size, particles=particles or options.PARTICLES,
        filters=filters,
    )  # fmt: skip
    write_found(growth.molecules(), draw, kind, (), lambda mol: {})
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
    if groups := [len(parts) for parts in growth.substituents.values()]:
        figures["substituents"] = groups
        shown = " and ".join(f"{count:,}" for count in groups)
        sentence += f"; {shown} distinct substituents at its attachment points"
    say(json.dumps(figures) if draw.as_json else sentence)

"""The `analogs` command."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from graphcnf.errors import say
from graphcnf.scripts.generation import options
from graphcnf.scripts.generation.growth import write_found
from graphcnf.scripts.generation.target import check_target, conversion, plain_kind, target_kind

COLUMNS = ("record", "smiles", "similarity")


def analogs(
    molecule: Annotated[str, typer.Argument(metavar="SMILES", help="The molecule.")],
    keep: Annotated[
        Literal["skeleton", "bonds", "scaffold"],
        typer.Option(
            help="What stays: which atoms are bonded; that and the orders of the bonds; the "
            "Bemis-Murcko scaffold."
        ),
    ] = "skeleton",
    similar: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Least Tanimoto similarity to the molecule (ECFP4, 2,048 bits).",
            show_default="none",
        ),
    ] = 0.0,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Analogues to write.")] = 100,
    out: Annotated[
        options.Path | None,
        typer.Option(
            help="File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet.",
            show_default="stdout",
        ),
    ] = None,
    force: options.Force = False,
    model: options.Model = "zinc250k",
    seed: options.Seed = 0,
    temperature: options.Temperature = 1.0,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="LO-HI",
            help="Number of atoms, 20-30 or 25, with --keep scaffold.",
            show_default="that of the molecule, three more or less",
        ),
    ] = None,
    standardize: options.Standardize = False,
    properties: options.Properties = None,
    particles: options.Particles = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line instead of SMILES.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """Draw analogues of a molecule: some of its atoms and bonds anew, given the others.

    They are distinct and valid, never the molecule itself, and the same ones for the same seed; a
    larger -n begins with the same analogues.
    """
    from graphcnf.scripts._sampling import (
        load_model,
        observations,
        parse_selection,
        parse_sizes,
        tell,
    )

    kind = target_kind(out, as_json)
    sizes = parse_sizes(size)
    check_target(out, kind, force)
    chosen = parse_selection(properties, [], [])
    network = load_model(model, device)

    from graphcnf.molecules.analogs import analogs_of
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.molecules.vocabulary import MoleculeVocabulary
    from graphcnf.scripts.generation.records import Recipe

    flow = MoleculeFlow(network)
    tell(observations([molecule], None if standardize else flow.charge_states), 1)
    molecule = flow.standardized(molecule) if standardize else molecule
    plain = plain_kind(kind)
    columns = ("smiles",) if plain == "smi" else COLUMNS
    recipe = Recipe(
        seed=seed,
        temperature=temperature,
        sizes=sizes,
        kind=plain,
        columns=tuple(dict.fromkeys([*columns, *chosen["properties"]])),
        everything=False,
        **chosen,
    )
    found = analogs_of(
        network,
        MoleculeVocabulary.of_model(network),
        molecule,
        keep=keep,
        similar=similar,
        seed=seed,
        temperature=temperature,
        atoms=sizes,
        particles=particles or options.PARTICLES,
    )
    origin = found.origin
    more = {"similarity": origin.similarity}
    write_found(found.molecules(), recipe, number, out, conversion(kind, recipe.columns), more)
    rate = (
        f"; {origin.acceptance:.1%} of {origin.others:,} valid ones reach {similar:g}"
        if similar
        else f", of {origin.others:,} valid ones that were drawn"
    )
    say(f"{number:,} distinct analogues of {origin.smiles} with its {keep}{rate}")

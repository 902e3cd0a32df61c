"""`MoleculeFlow`, what users hold: the model of molecules, and what the wings do with it.

Drawing and scoring are those of `graphcnf.molecules.molecule_model.MoleculeModel`. The other
methods are one call of a wing each, which is imported when it is called.

- *Raw samples*: all molecules as the model draws them, invalid and repeated ones included.
- *Target*: the value near which a property, such as logP, is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from graphcnf.errors import UserError
from graphcnf.limits import CANDIDATES, MOST_CANDIDATES, check_integer, check_low_and_high
from graphcnf.molecules.molecule_model import DrawnMolecules, MoleculeModel
from graphcnf.torch_state import default_type

if TYPE_CHECKING:
    import pandas as pd
    from rdkit import Chem


@dataclass(repr=False)
class MoleculeSample(DrawnMolecules):
    """Molecules that were drawn; in a notebook they are shown as pictures."""

    def to_pyg(self) -> list:
        """Return graphs of PyTorch Geometric in the order of the sample, also for invalid ones.

        A graph with n atoms and m bonds has node categories `x` (n,), every bond in both directions
        in `edge_index` (2, 2 m), edge categories `edge_attr` (2 m,), and `smiles`, None if it is no
        valid molecule. Categories are numbered as in the model's vocabulary.
        """
        from graphcnf.exchange.pyg import to_pyg

        return to_pyg(self.graphs, self.smiles)

    def _repr_html_(self) -> str:
        from graphcnf.chemistry.drawing import numbered_html

        return f"<p>{self!r}</p>{numbered_html(self.smiles)}"


class MoleculeFlow(MoleculeModel):
    """The density of molecules that users hold: draws SMILES, scores them, and finds related ones.

    Examples:
        >>> flow = MoleculeFlow.from_pretrained("zinc250k")
        >>> len(flow.sample(5, seed=0).smiles)
        5
        >>> flow.log_prob(["CC(=O)Nc1ccc(O)cc1"]).shape  # nats
        (1,)
        >>> flow.score(["CC(=O)Nc1ccc(O)cc1", "[Xe]"]).reason.isna().tolist()
        [True, False]
        >>> flow.decode(*flow.encode("OCCc1ccccc1"))
        ['OCCc1ccccc1']
    """

    def push_to_hub(self, name: str, *, licence: str, **options: Any) -> str:
        """Upload the model with a model card to the Hugging Face hub; return "org/name@commit".

        `options` are those of `graphcnf.hub.repository.push`: `private`, `intended`, `limits`,
        `figures`.
        """
        from graphcnf.hub.repository import push

        return push(self.model, name, licence=licence, **options)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        atoms: tuple[int, int] | None = None,
        properties: Mapping[str, float] | None = None,
        best_of: int | None = None,
        stereo: bool = True,
        filters: Any = None,
    ) -> MoleculeSample:
        """Draw molecules: raw samples or, with filters, distinct valid molecules that pass them.

        The seed determines the molecules. With the same arguments, the first n molecules of a
        larger sample are those of a sample of n.

        Args:
            temperature: 1 for the distribution of the model; below 1 for more probable and less
                diverse molecules.
            atoms: Lowest and highest number of heavy atoms. Within this range the sizes have the
                frequencies of the training data. None to draw all sizes.
            properties: Target values such as `{"logp": 2.5}`, in the unit of each property, for a
                model trained with properties.
            best_of: Candidates drawn for each molecule. The one nearest to the target values is
                kept; the distance is Euclidean, in standard deviations of the training data. With
                1, molecules follow the conditional distribution. None for 8 if there are
                `properties`, else for 1.
            filters: `graphcnf.chemistry.filters.Filters` that each molecule has to pass. Records
                are drawn until n distinct molecules have passed, as in `graphcnf generate`. None
                for raw samples.
        """
        check_integer("n", n)
        if atoms is not None:
            check_low_and_high("atoms", atoms)
        targets = None
        if properties is not None:
            from graphcnf.chemistry.properties import conditions_of

            targets = conditions_of(self.model, properties)
        if best_of is None:
            best_of = 1 if targets is None else CANDIDATES
        check_integer("best_of", best_of, 1, MOST_CANDIDATES)
        if best_of > 1 and targets is None:
            raise UserError(
                f"best of {best_of}: the best is the nearest to a property; ask for one"
            )

        from graphcnf.chemistry.surrogate import draw_nearest

        def draw(records: range) -> tuple:
            return draw_nearest(
                self,
                records,
                best_of,
                targets=targets,
                seed=seed,
                temperature=temperature,
                atoms=atoms,
                stereo=stereo,
            )

        if filters:
            filters.check_sizes(self.model.max_nodes)
        if filters and n:
            from graphcnf.chemistry.filters import passing

            return MoleculeSample(*passing(n, filters, draw))
        graphs, molecules = draw(range(n))
        return MoleculeSample(graphs, [molecule.isomer for molecule in molecules])

    @default_type()
    def grow(
        self, fragment: str, n: int = 100, *, task: str = "grow", stereo: bool = True, **options
    ) -> MoleculeSample:
        """Draw distinct molecules that contain a fragment.

        Args:
            fragment: SMILES with attachment points (`[*:1]`), or SMARTS.
            n: Number of molecules.
            task: What is added to the fragment.

                - "grow": new atoms at the attachment points or, if there are none, in place of any
                  hydrogen; no new ring contains fragment atoms;
                - "scaffold": new atoms and rings anywhere;
                - "decorate": a substituent at each of the attachment points, none elsewhere; new
                  atoms may replace the hydrogens of atoms with a map number, `[cH:1]`;
                - "link": one linker that joins all attachment points of two or more fragments,
                  "A.B";
                - "close": one linker that joins all attachment points of a single fragment, so that
                  it closes rings.
            stereo: True to keep the fragment's stereo marks and draw all others, if the model has
                stereo.
            **options: `seed`, `temperature`, `atoms`, `particles`, `filters` and `properties` of
                `graphcnf.design.growing.Growth`; `likeliest`, the number of molecules that are
                found for each one that is returned, the most probable per atom, 4 for "link" and 1
                for other tasks by default; `added_atoms`, `added_rings`, `added_rotatable`, each
                the (lowest, highest) number of what is added
                (`graphcnf.design.additions.AddedLimits`); `alerts`, names of catalogues of
                structural alerts to exclude beside "reactive", or "none" to allow reactive groups
                as well.
        """
        from graphcnf.design.growing import grow

        return MoleculeSample(*grow(self, fragment, n, task=task, stereo=stereo, **options))

    @default_type()
    def analogs(
        self, molecule: str | Chem.Mol, n: int = 100, *, stereo: bool = True, **options
    ) -> MoleculeSample:
        """Draw n distinct analogues of a molecule: molecules that differ from it in a part.

        The molecule itself is not among them.

        Args:
            stereo: True to keep the stereo marks of unchanged atoms and draw the others.
            **options: Options of `graphcnf.design.analogues.analogs_of`, such as `keep` (which part
                stays), `similar` (lowest Tanimoto similarity) and `filters`; `alerts` as in `grow`.
        """
        from graphcnf.design.analogues import draw_analogues

        return MoleculeSample(*draw_analogues(self, molecule, n, stereo=stereo, **options))

    @cached_property
    def charge_states(self) -> frozenset[str]:
        """Which of "acid" and "amine" are more probable charged than neutral under the model.

        The names are those of `graphcnf.chemistry.standardize.GROUPS`.
        """
        from graphcnf.chemistry.standardize import charge_states_of

        return charge_states_of(self)

    def standardized(self, molecule: str) -> str:
        """Return the SMILES of a molecule without salts, charged like the model's training data.

        Acids and amines are charged if `charge_states` names them, and neutral if it does not; for
        example "CCN.Cl" -> "CC[NH3+]" for a model of ZINC250k. See
        `graphcnf.chemistry.standardize.parse_standardized`.

        Raises:
            MoleculeNotRepresentable: if RDKit cannot read or standardize the SMILES.
        """
        from graphcnf.chemistry.standardize import standardized

        return standardized(molecule, self.charge_states)

    def score(self, molecules: str | Chem.Mol | Iterable, **options) -> pd.DataFrame:
        """Return a table with a row for each molecule: log-likelihood, bits per atom, percentile.

        See `graphcnf.chemistry.scoring.score`. Molecules that the model cannot represent have a row
        as well, with the reason.
        """
        from graphcnf.chemistry.scoring import score

        return score(self, molecules, **options)

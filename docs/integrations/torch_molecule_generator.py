"""graphcnf with the interface of torch-molecule: `fit` on SMILES, then `generate`.

    pip install torch-molecule 'graphcnf[train]'
    python torch_molecule_generator.py molecules.smi

Copy the class into your project. Its molecules have the training set's charges as they are written;
those that the shipped weights cannot represent are left out, as by `graphcnf finetune`.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from torch_molecule.base import BaseMolecularGenerator

import graphcnf
from graphcnf.datasets import load_smiles_file, read_smiles


class GraphCNFMolecularGenerator(BaseMolecularGenerator):
    """Categorical normalizing flow of molecules, fine-tuned on a list of SMILES.

    Args:
        weights: Shipped weights, a folder, or "org/name@commit" of the Hugging Face hub.
        steps: Steps of the fine-tuning; as many as suit the number of molecules if None.
        seed: Seed of the fine-tuning and of the samples.
        device: Device of the model; the CPU if None.
    """

    def __init__(self, *, weights="zinc250k", steps=None, seed=0, device="cpu", verbose="none"):
        super().__init__(device=device, model_name="GraphCNFMolecularGenerator", verbose=verbose)
        self.weights, self.steps, self.seed = weights, steps, seed

    @staticmethod
    def _get_param_names():
        return ["weights", "steps", "seed", "device", "verbose"]

    def fit(self, X, y=None):
        """Fine-tune the weights on SMILES; `y` is ignored."""
        smiles, _ = self._validate_inputs(X, return_rdkit_mol=False)
        with TemporaryDirectory() as folder:
            file, run = Path(folder, "training.smi"), Path(folder, "run")
            file.write_text("\n".join(smiles) + "\n")
            options = {"seed": self.seed, "samples": 0, "say": self._say}
            if self.steps is not None:
                options["settings"] = {"steps": self.steps}
            flow = graphcnf.MoleculeFlow.from_pretrained(self.weights, self.device)
            graphcnf.finetune(flow, load_smiles_file(file), run, **options)
            self.load_from_local(run)
        return self

    def _say(self, line):
        if self.verbose != "none":
            print(line)

    def generate(self, n_samples=32, **options):
        """Return SMILES of n_samples molecules; options are those of `MoleculeFlow.sample`."""
        drawn = self.model.sample(n_samples, **{"seed": self.seed, **options}).smiles
        return [smiles for smiles in drawn if smiles is not None]

    def save_to_local(self, path):
        """Save the model to a folder, of which graphcnf's commands know what to do."""
        self.model.save_pretrained(path)

    def load_from_local(self, path):
        """Load a folder that `save_to_local` or a run of graphcnf wrote."""
        self.model = graphcnf.MoleculeFlow.from_pretrained(path, self.device)
        self.is_fitted_ = True

    def save_to_hf(self, repo_id, **options):
        """Push the model to the Hugging Face hub; `licence` is needed, see docs/hub.md."""
        self.model.push_to_hub(repo_id, **options)

    def load_from_hf(self, repo_id, **_):
        """Load "org/name@commit" from the Hugging Face hub."""
        self.load_from_local(repo_id)

    # The training loop is that of graphcnf.
    def _setup_optimizers(self):
        raise NotImplementedError

    def _train_epoch(self, train_loader, optimizer):
        raise NotImplementedError

    def _get_model_params(self, checkpoint=None):
        raise NotImplementedError


if __name__ == "__main__":
    generator = GraphCNFMolecularGenerator(steps=20)
    print(generator.get_params())
    print(*generator.fit(read_smiles(sys.argv[1]).smiles).generate(5), sep="\n")

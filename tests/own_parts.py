"""A metric and two scores of one's own, which another package than graphcnf would hold."""

from functools import partial

from graphcnf.evaluation.metrics import Metric, Statistic, histogram, total_variation


def oxygens(mol):
    """Number of oxygen atoms."""
    return sum(atom.GetSymbol() == "O" for atom in mol.GetAtoms())


def near(*, to: str):
    """Nearness to a number of oxygen atoms."""
    return lambda mol: -abs(oxygens(mol) - int(to))


def texts(mol):
    return [str(oxygens(mol))]


OXYGENS = Statistic("oxygens", partial(histogram, texts))
OXYGEN_TV = Metric("oxygen atoms", "lower", OXYGENS, total_variation, axis="oxygen atoms here")

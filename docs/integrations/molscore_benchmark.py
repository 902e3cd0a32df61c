"""Run a benchmark of MolScore with graphcnf as the generator: one search for each of its tasks.

pip install molscore
python molscore_benchmark.py GuacaMol --budget 200 --only Albuterol_similarity
"""

import argparse
import warnings

import pandas as pd
from molscore import MolScoreBenchmark

import graphcnf


def main() -> None:
    """Search in each task of a benchmark; MolScore writes its tables to the output folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("benchmark", help="name of a benchmark of MolScore, such as GuacaMol")
    parser.add_argument("--budget", type=int, default=1000, help="molecules scored in each task")
    parser.add_argument("--only", nargs="*", default=[], help="tasks, all if none is named")
    parser.add_argument("--out", default="molscore", help="folder of the results")
    parser.add_argument("--model", default="zinc250k", help="weights to start from")
    options = parser.parse_args()
    # With pandas 3, MolScore 1.9.5 warns for every molecule, and its summary knows text as objects.
    warnings.simplefilter("ignore")
    pd.options.future.infer_string = False
    benchmark = MolScoreBenchmark(
        "graphcnf", options.out, options.budget, benchmark=options.benchmark, include=options.only
    )
    for task in benchmark:

        def score(smiles: str, task=task) -> float:
            """Return MolScore's score, which it keeps for its summary."""
            return task.score([smiles], flt=True)[0]

        # MolScore counts the molecules in one process.
        found = graphcnf.optimize(score, model=options.model, budget=options.budget, workers=0)
        print(task.cfg["task"], found.top(1))
    benchmark.summarize()


if __name__ == "__main__":
    main()

"""What is found out about one set of molecules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from graphcnf.evaluation.distances import Distances


@dataclass
class Evaluation:
    """What `graphcnf evaluate` finds out.

    Attributes:
        main: Figures of what is scored.
        data: The same of training data, None without any.
        notes: What a reader of the tables has to know.
        frame: `evaluate_records` of the first samples (`Summary.head`), of the first seed.
        distances: Distribution metrics, None where none were asked for.
        training_hashes: What novelty is held against, None for nothing.
    """

    main: dict[str, Any]
    data: dict[str, Any] | None
    notes: list[str]
    frame: pd.DataFrame
    distances: Distances | None = None
    training_hashes: np.ndarray | None = None

"""How far samples are from the digits, by the features of a classifier that is trained here.

The Frechet distance of two sets of images is that of normal distributions with the mean and the
covariance of their features:

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

References:
    Heusel et al., *GANs trained by a two time-scale update rule*, NeurIPS 2017, arXiv 1706.08500
    (with the features of another network, so that the figures do not compare).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.datasets.images import ImageDataset, read_digit_labels

FEATURES, EPOCHS, BATCH, RATE = 64, 8, 50, 2e-3


@dataclass(frozen=True)
class DigitFeatures:
    """The features, and how well the digits are told from them.

    Attributes:
        body: Images (B, 1, 28, 28) in 0 to 1 to features (B, `FEATURES`).
        accuracy: Share of the test part whose digit the classifier names.
    """

    body: nn.Module
    accuracy: float

    @torch.no_grad()
    def __call__(self, images: Tensor, levels: int) -> np.ndarray:
        """Features (N, `FEATURES`) float64 of images (N, 1, 28, 28) of whole numbers."""
        parts = [self.body(part / (levels - 1)) for part in images.split(500)]
        return torch.cat(parts).double().numpy()


def learn_features(data: ImageDataset) -> DigitFeatures:
    """Train the classifier on the training part of the digits; the same one every time.

    Args:
        data: What `load_images()` gives, with any number of bits.
    """
    labels = torch.from_numpy(read_digit_labels()).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, FEATURES), nn.ReLU(),
        )  # fmt: skip
        head = nn.Linear(FEATURES, 10)
        parameters = [*body.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, RATE)
        images = data.part("train") / (data.levels - 1)
        targets = labels[data.parts["train"]]
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(images)).split(BATCH):
                loss = F.cross_entropy(head(body(images[chosen])), targets[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        named = head(body(data.part("test") / (data.levels - 1))).argmax(1)
    right = named == labels[data.parts["test"]]
    return DigitFeatures(body.requires_grad_(False), right.double().mean().item())


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of normal distributions with the moments of two sets of features (N, D)."""
    means, covariances = zip(*((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)), strict=True)
    # The product of two covariances has eigenvalues that are not negative, but for rounding.
    product = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)
    spread = np.trace(covariances[0] + covariances[1]) - 2 * np.sqrt(product).sum()
    return float(np.square(means[0] - means[1]).sum() + spread)

"""How generated networks differ from their training networks and from each other."""

from bayesflow_nn.diversity.baselines import (
    gaussian_baseline,
    interpolation_baseline,
    noise_baseline,
    resampling_baseline,
)
from bayesflow_nn.diversity.functional import max_iou, pairwise_jsd
from bayesflow_nn.diversity.neighbours import Neighbours, nearest_neighbours
from bayesflow_nn.diversity.novelty import NoveltyReport, novelty_report

__all__ = [
    "Neighbours",
    "NoveltyReport",
    "gaussian_baseline",
    "interpolation_baseline",
    "max_iou",
    "nearest_neighbours",
    "noise_baseline",
    "novelty_report",
    "pairwise_jsd",
    "resampling_baseline",
]

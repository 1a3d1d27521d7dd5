"""How generated networks differ from their training networks and from each other."""

from bayesflow_nn.diversity.baselines import (
    gaussian_baseline,
    interpolation_baseline,
    noise_baseline,
    resampling_baseline,
)
from bayesflow_nn.diversity.disagreement import disagreement, q_statistic
from bayesflow_nn.diversity.functional import max_iou, pairwise_jsd
from bayesflow_nn.diversity.neighbours import Neighbours, nearest_neighbours
from bayesflow_nn.diversity.novelty import NoveltyReport, novelty_report, spread
from bayesflow_nn.diversity.output_density import output_density_jsd
from bayesflow_nn.diversity.report import (
    DiversityReport,
    DiversityRow,
    Frontier,
    NetworkSet,
    diversity_report,
)
from bayesflow_nn.diversity.set_distances import SetDistances, set_distances

__all__ = [
    "DiversityReport",
    "DiversityRow",
    "Frontier",
    "Neighbours",
    "NetworkSet",
    "NoveltyReport",
    "SetDistances",
    "disagreement",
    "diversity_report",
    "gaussian_baseline",
    "interpolation_baseline",
    "max_iou",
    "nearest_neighbours",
    "noise_baseline",
    "novelty_report",
    "output_density_jsd",
    "pairwise_jsd",
    "q_statistic",
    "resampling_baseline",
    "set_distances",
    "spread",
]

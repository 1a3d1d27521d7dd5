"""Data in, Bayesian predictions out: a population, a flow over it and an average, as one estimator.

`fit` trains many networks together, learns a :class:`bayesflow_nn.FlowPosterior` from them, and
draws the networks whose predictions are averaged from then on. Nothing here needs to know what a
weight vector is. Fitted estimators hold tensors of torch, which pickle and joblib write, and skops
does not.
"""

from bayesflow_nn.estimators.classifier import FlowBNNClassifier
from bayesflow_nn.estimators.regressor import FlowBNNRegressor

__all__ = ["FlowBNNClassifier", "FlowBNNRegressor"]

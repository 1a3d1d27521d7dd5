"""Data in, Bayesian predictions out: a population, a flow over it and an average, as one estimator.

`fit` makes a population: many networks trained together, or draws of Markov chains that start at
trained networks. Predictions average over networks that a :class:`bayesflow_nn.FlowPosterior`
learns to draw from an ensemble, or over the draws of the chains themselves, which need no flow;
`average` and `posterior` say otherwise. Nothing here needs to know what a weight vector is. Fitted
estimators hold tensors of torch, which pickle and joblib write, and skops does not.
"""

from bayesflow_nn.estimators.classifier import FlowBNNClassifier
from bayesflow_nn.estimators.regressor import FlowBNNRegressor

__all__ = ["FlowBNNClassifier", "FlowBNNRegressor"]

"""PermutationAligner and ScaleCanonicalizer as scikit-learn sees them.

scikit-learn's checks feed arrays of any number of columns. A transformer of weights accepts one
number only, that of its architecture, and without an architecture no array, as it should. So what
is checked are doubles, which differ from the transformers in nothing but where the architecture
comes from: the parameter names a family of networks, and the number of columns picks one of it.
Every family has symmetries to remove at the widths that occur, mostly three, or a check of
invariance would hold for a transformer that does nothing.
"""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_global_output_transform_pandas,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
    estimator_checks_generator,
    parametrize_with_checks,
)
from torch import nn

from bayesflow_nn.symmetry import PermutationAligner, ScaleCanonicalizer
from bayesflow_nn.weights import Architecture

INPUTS = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]


class Committee(nn.Module):
    """Neurons of one weight whose outputs are added: any order of the weights is the same."""

    def __init__(self, n_neurons):
        super().__init__()
        self.members = nn.Linear(1, n_neurons, bias=False)

    def forward(self, X):
        return self.members(X).relu().sum(1, keepdim=True)


class Residual(nn.Module):
    """What is added to its input; no perceptron, so that symmetries have to be discovered."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, X):
        return X + self.change(X)


def committee(n_weights):
    return Architecture(Committee(n_weights), example_input=torch.from_numpy(INPUTS))


def perceptron(n_weights):
    """A weight in and a weight out per hidden neuron; what is left over is the output's bias."""
    if n_weights == 1:
        return Architecture.mlp([1, 1], bias=False)
    n_hidden, left_over = divmod(n_weights, 2)
    first = nn.Linear(1, n_hidden, bias=False)
    return Architecture(
        nn.Sequential(first, nn.ReLU(), nn.Linear(n_hidden, 1, bias=left_over == 1))
    )


def residual(n_weights):
    change = perceptron(n_weights).module
    return Architecture(Residual(change), example_input=torch.from_numpy(INPUTS))


ARCHITECTURES = {"committee": committee, "perceptron": perceptron, "residual": residual}


class AnyWidth:
    """Finds the architecture when the number of columns is known."""

    def _plain_architecture(self):
        return ARCHITECTURES[self.architecture](self.n_features_in_)


class AlignerOfAnyWidth(AnyWidth, PermutationAligner):
    """PermutationAligner over all networks of one kind."""


class CanonicalizerOfAnyWidth(AnyWidth, ScaleCanonicalizer):
    """ScaleCanonicalizer over all networks of one kind."""


CHECKED = {
    "order of a committee": AlignerOfAnyWidth("committee"),
    "order of a perceptron": AlignerOfAnyWidth("perceptron"),
    # An array: scikit-learn sees a change of parameters by joblib's hash, which differs between
    # copies of one tensor.
    "order by activations": AlignerOfAnyWidth("residual", "activation_matching", inputs=INPUTS),
    "order by sinkhorn": AlignerOfAnyWidth("committee", "sinkhorn"),
    "scales of a perceptron": CanonicalizerOfAnyWidth("perceptron"),
    "scales of a module": CanonicalizerOfAnyWidth("residual"),
}
FRAME_CHECKS = [  # of scikit-learn, for its own estimators; no part of `check_estimator`
    check_dataframe_column_names_consistency,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_global_output_transform_pandas,
]
WIDTHS = range(1, 12)


def name_of(check):
    return getattr(check, "func", check).__name__


def random_rows(n_weights, n=8):
    return np.random.default_rng(n_weights).normal(size=(n, n_weights))


@parametrize_with_checks([*CHECKED.values()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CHECKED.values(), ids=CHECKED)
def test_the_contract_is_that_of_scikit_learn_in_full(estimator):
    listed = [name_of(check) for _, check in estimator_checks_generator(estimator)]
    (mark,) = (m for m in test_scikit_learn_contract.pytestmark if m.name == "parametrize")
    ran = [name_of(check) for checked, check in mark.args[1] if checked is estimator]
    assert sorted(ran) == sorted(listed)
    # scikit-learn 1.6 and 1.9 have 46 checks for a transformer, one more if it needs a fit.
    assert len(ran) >= 46 + isinstance(estimator, PermutationAligner)
    assert {
        "check_transformer_general",
        "check_transformer_preserve_dtypes",
        "check_transformer_data_not_an_array",
        "check_methods_subset_invariance",
        "check_methods_sample_order_invariance",
        "check_estimator_sparse_array",
        "check_estimators_nan_inf",
        "check_n_features_in_after_fitting",
    } <= set(ran)


# Some of these mix arrays and frames.
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.parametrize("check", FRAME_CHECKS, ids=name_of)
@pytest.mark.parametrize("estimator", CHECKED.values(), ids=CHECKED)
def test_names_of_columns_and_frames(estimator, check):
    pytest.importorskip("pandas")
    check(type(estimator).__name__, estimator)


@pytest.mark.parametrize("double", CHECKED.values(), ids=CHECKED)
@pytest.mark.parametrize("n_weights", WIDTHS)
def test_a_double_is_what_it_stands_for(double, n_weights):
    rows = random_rows(n_weights)
    parameters = double.get_params()
    parameters["architecture"] = ARCHITECTURES[double.architecture](n_weights)
    if isinstance(double, PermutationAligner):
        double, original = clone(double).set_params(random_state=0), PermutationAligner
        parameters["random_state"] = 0
    else:
        original = ScaleCanonicalizer
    expected = original(**parameters).fit_transform(rows)
    np.testing.assert_array_equal(clone(double).fit_transform(rows), expected)


@pytest.mark.parametrize("method", ["weight_matching", "sinkhorn"])
@pytest.mark.parametrize("n_weights", WIDTHS)
def test_the_double_of_a_committee_sorts(n_weights, method):
    """The inner product of two vectors is largest when both have the same ranks."""
    rows = random_rows(n_weights)
    aligner = AlignerOfAnyWidth("committee", method, random_state=0).fit(rows)
    ranks = aligner.reference_["members.weight"].flatten().argsort().argsort().numpy()
    np.testing.assert_array_equal(aligner.transform(rows), np.sort(rows)[:, ranks])


@pytest.mark.parametrize("architecture", ["perceptron", "residual"])
@pytest.mark.parametrize("n_weights", WIDTHS[1:])
def test_the_double_of_a_canonicalizer_moves_every_scale(n_weights, architecture):
    """Of a neuron v relu(u x) the representative is v |u| relu(sign(u) x)."""
    rows = random_rows(n_weights)
    n = n_weights // 2
    u, v, bias = rows[:, :n], rows[:, n : 2 * n], rows[:, 2 * n :]
    np.testing.assert_allclose(
        CanonicalizerOfAnyWidth(architecture).fit_transform(rows),
        np.hstack([np.sign(u), v * np.abs(u), bias]),
        rtol=1e-14,
    )

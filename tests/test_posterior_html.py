"""The table of a posterior: well-formed, escaped, and what the fit says of itself."""

import copy
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from sklearn import config_context
from sklearn.utils import estimator_html_repr

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation
from bayesflow_nn.flow.regression import TrainingHistory
from bayesflow_nn.posterior_html import posterior_html


def read_table(posterior):
    rows = ElementTree.fromstring(posterior_html(posterior)).iter("tr")
    return {row.find("th").text: row.find("td").text for row in rows}


def make_posterior(**changes):
    return FlowPosterior(velocity="mlp", max_iter=10, n_steps=4, random_state=0, **changes)


@pytest.fixture(scope="module")
def posterior():
    mlp = Architecture.mlp([2, 3, 2])
    weights = torch.randn(60, mlp.n_weights, generator=torch.Generator().manual_seed(0))
    return make_posterior().fit(WeightPopulation(weights, architecture=mlp, task="classification"))


def with_history(posterior, *history):
    changed = copy.copy(posterior)
    changed.history_ = TrainingHistory(*history)
    return changed


def test_a_posterior_without_a_fit_has_no_table():
    assert posterior_html(FlowPosterior()) == ""


def test_a_fit_is_a_table_of_its_networks_and_its_flow(posterior):
    table = read_table(posterior)
    assert table["networks"] == "54, and 6 held out"
    assert table["architecture"] == repr(Architecture.mlp([2, 3, 2]))
    assert table["task"] == "classification"
    assert table["likelihood"] == "Categorical()"
    n_coordinates = posterior.to_points(posterior.sample(1)).shape[1]
    assert table["flow"] == f"17 weights as {n_coordinates} coordinates, product_sphere"


def test_the_kept_model_is_named_with_its_own_loss(posterior):
    history = [5, 10, 15], [3.0, 2.0, 1.0], [2.5, 2.25, 2.75], 10
    kept = read_table(with_history(posterior, *history))["kept"]
    assert kept == "iteration 10 of 15, held-out loss 2.25 per coordinate"


def test_a_fit_that_kept_its_start_says_so(posterior):
    kept = read_table(with_history(posterior, [5], [3.0], [2.5], 0))["kept"]
    assert kept.startswith("the start, the Gaussian flow")


def test_without_held_out_chains_there_is_no_loss():
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    posterior = make_posterior(geometry="euclidean", validation_fraction=0.0).fit(rows)
    table = read_table(posterior)
    assert table["networks"] == "40, and 0 held out"
    assert table["kept"] == "iteration 10 of 10"
    assert table["architecture"] == table["task"] == table["likelihood"] == "not known"


def test_a_distilled_posterior_says_so(posterior):
    fast = copy.copy(posterior)
    fast.flow_map_ = SimpleNamespace(n_steps=2)
    assert read_table(fast)["sampling"] == "distilled, evaluations per network: 2"
    assert "sampling" not in read_table(posterior)


def test_notebooks_show_the_table_below_the_diagram(posterior):
    shown = posterior._repr_mimebundle_()["text/html"]
    expected = estimator_html_repr(posterior) + posterior_html(posterior)
    # scikit-learn counts its diagrams, to give each an identifier of its own.
    assert re.sub(r"\d+", "", shown) == re.sub(r"\d+", "", expected)
    with config_context(display="text"):
        assert posterior._repr_mimebundle_() == {"text/plain": repr(posterior)}


def test_what_is_shown_is_escaped(posterior):
    changed = copy.copy(posterior)
    changed.task_ = "<b>task</b> & more"
    assert read_table(changed)["task"] == "<b>task</b> & more"

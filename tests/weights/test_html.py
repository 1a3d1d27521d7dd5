"""The table of a population: well-formed, complete, and escaped."""

from xml.etree import ElementTree

import torch

from bayesflow_nn.weights import Architecture, HeteroscedasticNormal, WeightPopulation


def read_table(population):
    rows = ElementTree.fromstring(population._repr_html_()).iter("tr")
    return {row.find("th").text: row.find("td").text for row in rows}


def test_a_population_is_a_table_of_what_it_holds():
    mlp = Architecture.mlp([2, 2])
    population = WeightPopulation(
        torch.zeros(6, mlp.n_weights),
        architecture=mlp,
        chain=torch.tensor([0, 0, 0, 1, 1, 1]),
        likelihood=HeteroscedasticNormal(0.5),
        metrics={"<nll>": torch.tensor([1.0, 3.0] * 3)},
    )
    table = read_table(population)
    assert table["architecture"] == repr(mlp)
    assert table["networks"] == "6 in 2 chains"
    assert table["task"] == "regression"
    assert table["likelihood"] == "HeteroscedasticNormal(min_scale=0.5)"
    assert table["<nll>"] == "2 ± 1"


def test_what_is_not_known_is_said():
    mlp = Architecture.mlp([2, 2])
    table = read_table(WeightPopulation(torch.zeros(1, mlp.n_weights), architecture=mlp))
    assert table["task"] == table["likelihood"] == "not known"
    assert table["networks"] == "1 in 1 chain"

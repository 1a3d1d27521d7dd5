"""The demonstration runs, and its tables and figure hold what they should."""

import importlib
import re

import pytest
import torch
from matplotlib import image

from bayesflow_nn import Architecture, WeightPopulation
from bayesflow_nn.demonstration.comparison import COLUMNS, HEADER, Comparison
from bayesflow_nn.demonstration.problems import Data

demonstration = importlib.import_module("bayesflow_nn.__main__")

NUMBER = r"-|-?\d+\.\d+"
ROW = re.compile(rf"^(?P<name>\S.*?)\s{{2,}}(?P<cells>(?:(?:{NUMBER})\s*){{6}})$")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Printed text and path of the figure of one quick run, quicker than quick."""
    path = tmp_path_factory.mktemp("demonstration") / "figure.png"
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as output:
        patch.setattr(demonstration, "QUICK_NETWORKS", 60)
        patch.setattr(demonstration, "DENSITY_STEPS", 1)
        patch.setattr(demonstration, "QUICK", {"max_iter": 20, "batch_size": 16, "n_steps": 4})
        lines = []
        output.setattr("builtins.print", lambda text="", **_: lines.extend(str(text).split("\n")))
        demonstration.main(["--quick", "--dataset", "iris", "--output", str(path)])
    return lines, path


@pytest.fixture(scope="module")
def table(run):
    rows = _rows(run[0])
    return {row["name"]: dict(zip(COLUMNS, row["cells"].split(), strict=True)) for row in rows}


def _rows(lines):
    """Rows of the first table, which ends where the report begins."""
    (end,) = (k for k, line in enumerate(lines) if line.startswith("Calibration of averages"))
    return list(filter(None, map(ROW.match, lines[:end])))


def test_the_header_names_the_columns(run):
    assert run[0].count(HEADER) == 1
    assert HEADER.split() == ["accuracy", "NLL", "ECE", "novelty", "dispersion", "seconds"]
    assert any(line.startswith("iris, 4-16-3, product_sphere: trained 60") for line in run[0])


@pytest.mark.parametrize(
    "name",
    [
        "held-out trained network",
        "generated network",
        "deep ensemble of 54",  # nine tenths of the networks
        "average of 100 generated",
        "training network + noise",
        *(f"tempered Gaussian, tau {tau}" for tau in ("0.00", "0.50", "0.70", "0.90", "1.00")),
        *(f"generated network, T = {t}" for t in ("0.8", "0.6", "0.4")),
    ],
)
def test_every_row_is_there(table, name):
    row = table[name]
    assert 0 <= float(row["accuracy"]) <= 1 and 0 <= float(row["ECE"]) <= 1
    assert float(row["NLL"]) > 0
    is_average = name.startswith(("deep ensemble", "average"))
    assert (row["novelty"] == "-") == (row["dispersion"] == "-") == is_average
    assert (row["seconds"] == "-") == (name == "held-out trained network")


def test_rows_fit_under_their_header(run):
    widths = {len(row.string) for row in _rows(run[0])}
    assert widths == {len(HEADER)}


def test_known_rows_have_known_numbers(table):
    held_out = table["held-out trained network"]
    assert (held_out["novelty"], held_out["dispersion"]) == ("1.00", "1.00")
    assert table["tempered Gaussian, tau 0.00"]["dispersion"] == "0.00"
    # Noise of the distance of the generated networks: equal before the projection to the spheres.
    noise, generated = table["training network + noise"], table["generated network"]
    assert float(noise["novelty"]) == pytest.approx(float(generated["novelty"]), abs=0.2)


def test_each_flow_has_a_gaussian_of_its_dispersion(run):
    rows = _rows(run[0])
    flows = [i for i, row in enumerate(rows) if row["name"].startswith("generated network")]
    assert len(flows) == len(demonstration.TEMPERATURES)
    for index in flows:
        assert rows[index + 1]["name"].startswith("average of 100 generated")
        assert rows[index + 2]["name"].startswith("tempered Gaussian, tau ")
        flow, gaussian = (float(rows[i]["cells"].split()[4]) for i in (index, index + 2))
        assert gaussian == pytest.approx(flow, abs=0.011)  # two roundings to 0.01


def test_the_figure_is_a_png(run):
    assert run[1].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = image.imread(run[1])
    # 14 x 8.6 inches at 150 dots each, and not blank.
    assert pixels.shape[:2] == (1290, 2100) and pixels.std() > 0.01


@pytest.mark.parametrize(
    "opening",
    [
        "Calibration of averages",
        "Uncertainty of inputs",
        "Shuffled told from test inputs by",
        "An average of generated networks, by size",
        "The deep-ensemble equivalent of 100 generated networks",
        "Networks against each other",
        "Leave-one-out on training data",
        "Importance weights of 50 generated networks",
    ],
)
def test_every_part_of_the_report_is_there(run, opening):
    assert sum(line.startswith(opening) for line in run[0]) == 1


def test_scores_of_a_known_network():
    # Two inputs, two classes, logits (x, -x): probability of class 0 is 1 / (1 + exp(-2x)).
    mlp = Architecture.mlp([1, 2], bias=False)
    weights = torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])
    population = WeightPopulation(weights, architecture=mlp)
    X, y = torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1])
    comparison = Comparison(Data(X, y, X, y), population, population, posterior=None)
    row = comparison.average_row("average", weights)
    p = torch.sigmoid(2 * weights[:, 0]).mean()
    assert row.accuracy == 0.5
    assert row.nll == pytest.approx(-(p.log() + (1 - p).log()).item() / 2, rel=1e-5)
    assert row.ece == pytest.approx(p.item() - 0.5, rel=1e-5)
    assert str(row).split()[-3:] == ["-", "-", "-"]
    alone = comparison.average_row("averages of one", weights, size=1)
    p = torch.sigmoid(2 * weights[:, 0])
    assert alone.nll == pytest.approx(-(p.log() + (1 - p).log()).mean().item() / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "mnist"], "argument --dataset: invalid choice: 'mnist' (choose from "),
        (["--geometry", "flat"], "argument --geometry: invalid choice: 'flat' (choose from "),
        (["--output", "/no/such/folder/a.png"], "there is no folder '/no/such/folder'"),
        (["--output", "figure.gif2"], "'figure.gif2' must end in one of ."),
    ],
)
def test_wrong_arguments_end_before_the_work_begins(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        demonstration.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_says_what_every_option_does(capsys):
    with pytest.raises(SystemExit) as caught:
        demonstration.main(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for fact in (
        "{breast_cancer,iris,wine,digits}",
        "(default: breast_cancer)",
        "(default: product_sphere)",
        "(default: bayesflow_nn.png)",
        "novelty, the distance to the nearest training network",
    ):
        assert fact in text


def test_the_verdict_on_the_density_is_printed(run):
    lines = run[0]
    assert any(re.match(r"Pareto k-hat +(inf|-?\d+\.\d\d) ", line) for line in lines)
    assert any(line.startswith("effective sample size") for line in lines)

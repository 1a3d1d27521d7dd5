"""Saved objects do what they did, and files do nothing else."""

import functools
import json
import math
import os
import threading
from collections import Counter, OrderedDict
from enum import Enum

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from bayesflow_nn import (
    Architecture,
    FlowBNNClassifier,
    FlowPosterior,
    HeteroscedasticNormal,
    Refresh,
    WeightPopulation,
    load,
    save,
    train_population,
)
from bayesflow_nn.velocity import MLPVelocity, ProbeVelocity
from bayesflow_nn.velocity.probe_refinement import LabelledRefinement

FAST = {"max_iter": 2, "n_steps": 4, "random_state": 0}
MLP = Architecture.mlp([4, 3, 3])


class Skip(nn.Module):
    """A network that is no multilayer perceptron."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(x + self.first(x).relu())


@pytest.fixture(scope="module")
def population(iris):
    return train_population(MLP, *iris, n_networks=30, n_epochs=5, random_state=0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "object.safetensors"


def there_and_back(value, path, **options):
    save(value, path)
    return load(path, **options)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"geometry": "normalized", "velocity": "pna"},
        {"geometry": "euclidean", "velocity": "mlp", "reducer": 5},
        {"geometry": "euclidean", "reducer": PCA(4), "noise": Refresh(1.0, start=0.2)},
        {"velocity": "relational_transformer", "alignment": None, "output_layer": "sphere"},
        {"velocity": functools.partial(ProbeVelocity, n_probes=8, n_refinements=2)},
        {"alignment": FunctionTransformer(), "velocity": MLPVelocity, "validation_fraction": 0},
    ],
)
def test_a_posterior_samples_and_scores_as_before(population, iris, path, parameters):
    posterior = FlowPosterior(**FAST | parameters).fit(population)
    posterior.save(path)
    loaded = FlowPosterior.load(path)
    ours, theirs = (
        [
            each.sample(5, random_state=0),
            each.log_prob(population[:5]),
            each.predict_proba(iris[0]),
            each.training_points_,
        ]
        for each in (posterior, loaded)
    )
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(own, other)
    assert str(loaded.get_params()) == str(posterior.get_params())


def test_conditions_and_distilled_maps_stay(population, path):
    y = ["low", "high"] * 15
    posterior = FlowPosterior(**FAST, geometry="euclidean").fit(population, y)
    posterior = posterior.distill(2, n_trajectories=60, max_iter=2, random_state=0)
    posterior.save(path)
    loaded = FlowPosterior.load(path)
    np.testing.assert_array_equal(
        *(each.sample(4, condition="high", random_state=0) for each in (posterior, loaded))
    )
    assert loaded.flow_map_.divergence == posterior.flow_map_.divergence
    with pytest.raises(ValueError, match="condition must be one of the labels"):
        loaded.sample(condition="middle")


def test_what_labels_have_of_their_own_stays(path):
    """Networks of one label are ten times as far from the mean."""
    label = np.arange(200) % 2
    rows = np.random.default_rng(0).normal(size=(200, MLP.n_weights)) * 10.0 ** label[:, None]
    names = np.array(["near", "far"])[label]
    options = {"architecture": MLP, "geometry": "euclidean", "validation_fraction": 0.2}
    posterior = FlowPosterior(**FAST | options).fit(rows, names)
    loaded = there_and_back(posterior, path)
    for each in (posterior, loaded):
        modules = each.field_.predictor.modules()
        assert sum(isinstance(module, LabelledRefinement) for module in modules) == 6
    given = {"condition": names[:4], "random_state": 0}
    np.testing.assert_array_equal(*(each.sample(4, **given) for each in (posterior, loaded)))
    np.testing.assert_array_equal(
        *(each.log_prob(rows[:4], condition=names[:4]) for each in (posterior, loaded))
    )


def test_an_estimator_in_a_pipeline_predicts_as_before(iris, path):
    X, y = iris
    model = FlowBNNClassifier(
        hidden_layer_sizes=(4,),
        population="ensemble",
        n_networks=30,
        max_iter=3,
        posterior=FlowPosterior(**FAST),
        random_state=0,
    )
    pipeline = make_pipeline(StandardScaler(), model).fit(X, np.array(["a", "b", "c"])[y])
    loaded = there_and_back(pipeline, path)
    np.testing.assert_array_equal(loaded.predict(X), pipeline.predict(X))
    np.testing.assert_array_equal(loaded.predict_proba(X), pipeline.predict_proba(X))
    pipeline[-1].save(path)
    assert FlowBNNClassifier.load(path).classes_.tolist() == ["a", "b", "c"]


def test_a_population_keeps_all_that_is_known_of_it(path):
    architecture = Architecture(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    generator = torch.Generator().manual_seed(0)
    made = WeightPopulation(
        torch.randn(6, architecture.n_weights, generator=generator),
        architecture=architecture,
        chain=torch.arange(6) // 2,
        likelihood=HeteroscedasticNormal(),
        buffers={
            "1.running_mean": torch.randn(6, 4, generator=generator),
            "1.running_var": torch.rand(6, 4, generator=generator),
            "1.num_batches_tracked": torch.arange(6),
        },
        metrics={"loss": torch.tensor([0.1, math.nan, 0.3, math.inf, 0.5, 0.6])},
    )
    loaded = there_and_back(made, path)
    X = torch.randn(5, 3, generator=generator)
    assert torch.equal(loaded.apply(X), made.apply(X))
    assert loaded.chain.tolist() == [0, 0, 1, 1, 2, 2]
    assert loaded.likelihood == HeteroscedasticNormal()
    assert loaded.task == "regression"
    torch.testing.assert_close(loaded.metrics, made.metrics, equal_nan=True)


def test_a_class_of_ones_own_must_be_trusted(path):
    architecture = Architecture(Skip())
    save(architecture, path)
    with pytest.raises(
        ValueError, match=r"trusted must hold 'tests\.test_persistence'.* uses Skip"
    ):
        load(path)
    loaded = load(path, trusted=["tests"])
    weights, X = torch.randn(3, architecture.n_weights), torch.randn(5, 4)
    assert torch.equal(loaded.apply(weights, X), architecture.apply(weights, X))


def test_values_of_all_kinds_come_back(path):
    value = {
        "numbers": [None, True, 3, -0.0, 1e300, math.inf, -math.inf],
        ("a", 1): (torch.Size([2, 3]), slice(1, None, 2), {"x", "y"}),
        "types": [torch.float64, np.float32, np.dtype("int16"), torch.device("cpu")],
        "scalars": [np.int64(2**53 + 1), np.float32(0.1), np.str_("z"), np.bool_(True)],
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
        "text": np.array([["one", "three"]]),
        "mixed": np.array(["a", 1, None], dtype=object),
    }
    loaded = there_and_back(value, path)
    assert str(loaded) == str(value)  # with types, order and the sign of zero
    assert loaded["text"].dtype == value["text"].dtype
    assert loaded["scalars"][0] == 2**53 + 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int16, torch.bool])
def test_tensors_keep_dtype_and_values(path, dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype).transpose(0, 2)
    loaded = there_and_back([tensor, nn.Parameter(torch.ones(1), False), torch.tensor(5)], path)
    assert loaded[0].dtype is dtype
    assert torch.equal(loaded[0], tensor)
    assert isinstance(loaded[1], nn.Parameter)
    assert not loaded[1].requires_grad
    assert loaded[2].shape == ()
    assert loaded[0].stride() == tensor.stride()


def test_what_occurs_twice_is_one_object_and_rings_close(path):
    layer, array = nn.Linear(2, 2), np.arange(3.0)
    layer.own, layer.list = layer.weight, [layer, array, array]
    loaded = there_and_back(layer, path)
    assert loaded.own is loaded.weight
    assert loaded.list[0] is loaded
    assert loaded.list[1] is loaded.list[2]
    with safe_open(path, framework="pt") as file:
        assert len(list(file.keys())) == 3  # weight, bias, array


def test_what_cannot_be_written_is_named_and_the_old_file_stays(population, path):
    save("old", path)
    posterior = FlowPosterior(**FAST).fit(population)
    posterior.velocity = lambda problem: None
    with pytest.raises(TypeError, match=r"FlowPosterior\.velocity must be defined at the top of a"):
        posterior.save(path)
    posterior.set_params(velocity="probe", random_state=np.random.RandomState(0))
    with pytest.raises(TypeError, match=r"FlowPosterior\.random_state is a RandomState"):
        posterior.save(path)
    assert load(path) == "old"
    assert list(path.parent.iterdir()) == [path]


class Names(list):
    pass


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (threading.Lock(), r"dict\['part'\]\[1\] is a lock, which cannot be saved"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "of datetime64.* is a ndarray"),
        (np.arange(3, dtype=">i4"), "of >i4 is a ndarray"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "is a MaskedArray"),
        (torch.eye(2).to_sparse(), "is a Tensor"),
        (torch.ones(2, dtype=torch.complex64), "is a Tensor"),
        (1j, "is a complex"),
        (Names("ab"), "is a Names"),
        (Counter("ab"), "is a Counter"),
        (Colour.RED, "is a Colour"),
        (KNeighborsClassifier().fit([[0.0], [1.0]], [0, 1]), "got KNeighborsClassifier of sklearn"),
        (LinearRegression(), r"must be of one of the packages .* got LinearRegression of sklearn"),
        (nn.functional.gelu, "is a builtin_function_or_method"),
        (FunctionTransformer(np.log1p), r"\[1\]\.func must be .* got ufunc of numpy"),
        (make_pipeline(StandardScaler(), memory="cache"), r"\.memory must be None .* got 'cache'"),
        (os.system, "is a builtin_function_or_method"),
    ],
)
def test_other_kinds_are_refused(path, value, message):
    with pytest.raises(TypeError, match=message):
        save({"part": [0, value]}, path)


def test_what_is_in_itself_is_refused(path):
    ring = []
    ring.append(ring)
    with pytest.raises(ValueError, match="must not be nested so deeply, or in itself"):
        save(ring, path)


def write(path, root, **header):
    """A file by hand."""
    header = {"format": 1, "versions": {}, "root": root} | header
    save_file({"0": torch.ones(2)}, path, {"bayesflow_nn": json.dumps(header)})


SCALER = "sklearn.preprocessing._data:StandardScaler"
POSTERIOR = {"object": ["bayesflow_nn.posterior:FlowPosterior", {"chart_": 1}]}
SAVE = {"method": [POSTERIOR, "bayesflow_nn.persistence.files:PersistenceMethods.save"]}
RELU = {"callable": "torch.nn.functional:relu"}


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ({"callable": "os:system"}, "trusted must hold 'os'"),
        ({"object": ["builtins:dict", {}]}, "trusted must hold 'builtins'"),
        ({"object": ["sklearn.linear_model._base:LinearRegression", {}]}, "trusted must hold 'skl"),
        ({"callable": "bayesflow_nn.persistence.files:save"}, "must not name here"),
        ({"callable": "bayesflow_nn.flow.ode:torch.load"}, "must not name here"),
        ({"object": ["bayesflow_nn.flow.ode:Rate", {}]}, "must not name here"),
        ({"object": ["torch.nn.functional:relu", {}]}, "must not name here"),
        ({"namedtuple": ["bayesflow_nn.posterior:FlowPosterior", []]}, "class of named tuples"),
        (SAVE, "must not name here"),
        ({"method": [POSTERIOR, "save"]}, "trusted must hold 'save'"),
        ({"object": [SCALER, {"transform": RELU}]}, "must not replace 'transform'"),
        ({"object": [SCALER, {"__class__": 1}]}, "must not replace '__class__'"),
        ({"object": ["bayesflow_nn.posterior:FlowPosterior", {"predict": RELU}]}, "replace 'predi"),
        ({"object": ["sklearn.pipeline:Pipeline", {"memory": "x"}]}, "a folder as memory"),
        ({"partial": [POSTERIOR, [], {}]}, "a class or function in a partial"),
        ({"partial": [RELU, POSTERIOR, {}]}, "must hold a list of nodes, got dict"),
        ({"tuple": POSTERIOR}, "must hold a list of nodes, got dict"),
        ({"dict": [POSTERIOR]}, "cannot be read|unpack"),
        ({"dtype": "os"}, "cannot be read: KeyError"),
        ({"dtype": "torch.load"}, "cannot be read: KeyError"),
        ({"number": "O"}, "must hold numbers or strings"),
        ({"scalar": [POSTERIOR, "<f8"]}, "must hold a number or string"),
        ({"again": 5}, "cannot be read: IndexError"),
        ({"array": ["7", [0]]}, "cannot be read: KeyError"),
        ({"pickle": "gASVAAA="}, "nodes of known kinds, got 'pickle'"),
    ],
)
def test_files_cannot_name_what_is_not_trusted(path, root, message):
    write(path, root)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_devices(path):
    """Tensors and estimators that were elsewhere go where they are asked to."""
    write(path, {"tensor": ["0", [0], {"device": "cuda:0"}]})
    assert load(path).device.type == "cpu"
    assert load(path, device="meta").device.type == "meta"
    save(
        [FlowPosterior(device="cuda"), FlowBNNClassifier(posterior=FlowPosterior(device="cuda"))],
        path,
    )
    posterior, model = load(path, device="meta")
    assert posterior.device == model.posterior.device == "meta"


def test_files_of_other_makers_and_versions(path, population):
    write(path, None, versions={"bayesflow_nn": "0.0.1"})
    with pytest.warns(UserWarning, match=r"written with {'bayesflow_nn': '0.0.1'}, here are"):
        assert load(path) is None
    write(path, None, format=2)
    with pytest.raises(ValueError, match="format 1 or earlier, got .* of format 2"):
        load(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="path must be a file written by save"):
        load(path)
    path.write_text("no tensors")
    with pytest.raises(ValueError, match="path must be a file written by save"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(path.with_name("missing"))
    save(population, path)
    with pytest.raises(TypeError, match="path must hold a FlowPosterior, .* a WeightPopulation"):
        FlowPosterior.load(path)
    with pytest.raises(TypeError, match="trusted must be a list of packages, got 'mine'"):
        load(path, trusted="mine")


def test_a_link_stays_a_link(path):
    path.with_name("target").write_text("")
    path.symlink_to(path.with_name("target"))
    save(1, path)
    assert path.is_symlink()
    assert load(path) == 1


def test_only_fitted_estimators_are_saved(path):
    with pytest.raises(NotFittedError):
        FlowPosterior().save(path)

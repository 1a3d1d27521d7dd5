"""Imports point down: every module imports only from layers below its own.

The imports are read from the source, so one inside a function or for type checking counts as well.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bayesflow_nn"

LAYERS = [
    {"__main__"},
    {"__init__"},
    {"estimators", "demonstration"},
    {"plots"},
    {"posterior"},
    {"posterior_refinement"},
    {
        "posterior_densities",
        "posterior_predictions",
        "posterior_diversity",
        "posterior_sampling",
        "posterior_transfer",
        "stacking",
    },
    {
        "posterior_input",
        "posterior_html",
        "condition_encoder",
        "distillation",
        "importance",
        "refinement",
        "arviz_record",
        "predictive_distribution",
    },
    {"sampling_input"},
    {"predictive", "pointwise", "calibration", "diversity", "inference_data", "persistence"},
    {"flow", "geodesic_hmc"},
    {"velocity"},
    {"symmetry"},
    {"geometry"},
    {"weights"},
]
"""Modules and subpackages, top to bottom."""

FRAGILE = {"geoopt": "geometry/", "torchdiffeq": "flow/ode.py", "arviz": "inference_data.py"}
"""Dependencies that only one place may import."""


def module_files(package: Path) -> dict[str, Path]:
    """Dotted name and file of every module; a subpackage's name stands for its ``__init__``."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported_names(name: str, path: Path) -> set[str]:
    """Absolute dotted names that a module imports, as written: ``a.b`` for ``from a import b``."""
    parent = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = parent[: len(parent) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def import_graph(package: Path) -> dict[str, set[str]]:
    """Modules of the package that each module imports."""
    files = module_files(package)
    graph = {}
    for name, path in files.items():
        names = imported_names(name, path)
        # `from a import b` is module a.b if there is one, and a name inside a otherwise.
        graph[name] = {n if n in files else n.rpartition(".")[0] for n in names} & files.keys()
        graph[name].discard(name)
    return graph


def unit(name: str) -> str:
    """Module or subpackage of the top level to which a module belongs."""
    return [*name.split("."), "__init__"][1]


def layer(name: str) -> int:
    return next(depth for depth, units in enumerate(LAYERS) if unit(name) in units)


def without_layer(package: Path) -> list[str]:
    known = set().union(*LAYERS)
    return [name for name in module_files(package) if unit(name) not in known]


def upward_imports(package: Path) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, targets in import_graph(package).items()
        for target in sorted(targets)
        if unit(name) != unit(target) and layer(name) >= layer(target)
    ]


def import_cycle(package: Path) -> list[str]:
    try:
        TopologicalSorter(import_graph(package)).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def misplaced_dependencies(package: Path) -> list[str]:
    return [
        f"{name} imports {dependency}"
        for name, path in module_files(package).items()
        for dependency in sorted({n.split(".")[0] for n in imported_names(name, path)} & {*FRAGILE})
        if not path.relative_to(package).as_posix().startswith(FRAGILE[dependency])
    ]


CHECKS = [without_layer, upward_imports, import_cycle, misplaced_dependencies]


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_has_no_fault(check):
    assert check(PACKAGE) == []


SOUND = {
    "__init__.py": "from bayesflow_nn.posterior import FlowPosterior",
    "posterior.py": "import bayesflow_nn.flow.ode\nfrom .weights import Architecture",
    "flow/__init__.py": "",
    "flow/ode.py": "import torchdiffeq\nfrom . import path\nfrom ..geometry.sphere import Sphere",
    "flow/path.py": "import torch",
    "geometry/sphere.py": "from geoopt.manifolds import Sphere as Base",
    "weights/__init__.py": "from bayesflow_nn.weights.population import WeightPopulation",
    "weights/population.py": "import numpy",
}


@pytest.fixture
def tree(tmp_path):
    """Write a package from a dict of sources over the sound one; return its folder."""

    def write(changes):
        package = tmp_path / "bayesflow_nn"
        for name, source in (SOUND | changes).items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(source)
        return package

    return write


@pytest.mark.parametrize("check", CHECKS)
def test_a_sound_tree_passes(tree, check):
    assert check(tree({})) == []


UPWARD = [
    (
        "weights/population.py",
        "from bayesflow_nn.flow import ode",
        "weights.population",
        "flow.ode",
    ),
    ("weights/population.py", "from ..posterior import X", "weights.population", "posterior"),
    ("flow/path.py", "def f():\n    import bayesflow_nn.posterior", "flow.path", "posterior"),
    ("predictive.py", "from .diversity import max_iou", "predictive", "diversity"),
    ("posterior.py", "from bayesflow_nn import __version__", "posterior", ""),
]


@pytest.mark.parametrize(("file", "source", "importer", "imported"), UPWARD)
def test_an_upward_import_is_found(tree, file, source, importer, imported):
    package = tree({file: source, "diversity.py": ""})
    target = f"bayesflow_nn.{imported}".rstrip(".")
    assert upward_imports(package) == [f"bayesflow_nn.{importer} imports {target}"]


@pytest.mark.parametrize(
    "source", ["from bayesflow_nn.flow.ode import f", "from .ode import f", "from . import ode"]
)
def test_a_cycle_inside_a_layer_is_found(tree, source):
    package = tree({"flow/path.py": source})
    assert set(import_cycle(package)) == {"bayesflow_nn.flow.ode", "bayesflow_nn.flow.path"}


@pytest.mark.parametrize(
    ("file", "source", "dependency"),
    [
        ("weights/population.py", "import geoopt.manifolds", "geoopt"),
        ("flow/path.py", "from torchdiffeq import odeint", "torchdiffeq"),
        ("posterior.py", "def f():\n    import arviz as az", "arviz"),
    ],
)
def test_a_misplaced_dependency_is_found(tree, file, source, dependency):
    module = f"bayesflow_nn.{file[:-3].replace('/', '.')}"
    assert misplaced_dependencies(tree({file: source})) == [f"{module} imports {dependency}"]


def test_a_module_without_a_layer_is_found(tree):
    assert without_layer(tree({"utils.py": ""})) == ["bayesflow_nn.utils"]

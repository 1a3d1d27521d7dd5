"""The project's files agree with each other."""

import configparser
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import bayesflow_nn

ROOT = Path(__file__).parents[1]

TOP_LEVEL = {
    # What the project is.
    "setup.cfg",
    "bayesflow_nn",
    "examples",
    "tests",
    "docs",
    "README.md",
    # What tools need.
    "pyproject.toml",
    "ruff.toml",
    "constraints.txt",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    ".ci",
    ".gitignore",
}


@pytest.fixture
def commands():
    """Command lines of the README."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.fixture
def metadata():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def _steps(command):
    return [step.split() for step in command.split(" && ")]


def test_the_readme_has_two_commands_that_set_themselves_up(commands):
    demonstration, tests = map(_steps, commands)
    assert demonstration[-1] == [".venv/bin/python", "-m", "bayesflow_nn"]
    assert tests[-1][:3] == [".venv/bin/python", "-m", "pytest"]
    for create, install, _ in (demonstration, tests):
        assert create == ["python3", "-m", "venv", ".venv"]
        assert install[0] == ".venv/bin/pip"
        assert install[install.index("-c") + 1] == "constraints.txt"


def test_ci_runs_the_readme_command_for_the_tests(commands):
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert f"{commands[1]} || exit 1" in ci


def test_ci_runs_the_linter_the_formatter_and_the_layer_test():
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert ".venv/bin/ruff check" in ci
    assert ".venv/bin/ruff format --check" in ci
    assert ".venv/bin/python -m pytest tests/test_layers.py" in ci
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_version_is_stated_once(metadata):
    assert metadata["metadata"]["version"] == "attr: bayesflow_nn.__version__"
    assert version("bayesflow_nn") == bayesflow_nn.__version__


def test_every_dependency_is_pinned(metadata):
    constraints = (ROOT / "constraints.txt").read_text()
    pins = set(re.findall(r"^([\w.-]+)==\S+$", constraints, re.M))
    listed = [metadata["options"]["install_requires"], *metadata["options.extras_require"].values()]
    required = {line.split()[0] for lines in listed for line in lines.split("\n") if line}
    assert required <= pins
    assert "torch==2.13.0" in constraints.splitlines()


def test_the_package_is_typed(metadata):
    assert metadata["options.package_data"]["bayesflow_nn"] == "py.typed"
    assert (ROOT / "bayesflow_nn" / "py.typed").exists()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the files of a clone are known from git")
def test_nothing_else_lies_at_the_top_level():
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {file.split("/")[0] for file in files.splitlines()} <= TOP_LEVEL

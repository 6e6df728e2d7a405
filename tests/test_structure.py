"""The structure of the package, read from its imports."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

import fluxseg
from tests.commands import run_python

ROOT = Path(fluxseg.__file__).parent
FLOORS = (
    ("errors", "version", "config", "io", "allocator", "compilation", "processes"),
    ("data",),
    ("simulation",),
    ("formats",),
    ("model",),
    ("training",),
    ("inference",),
    ("adapt",),
    ("traces",),
    ("report", "plot"),
    ("job",),
    ("console", "arguments"),
    ("main",),
    ("cli", "napari"),
    ("__main__",),
)
HEAVY = ("jax", "flax", "optax", "orbax", "grain", "matplotlib", "PIL", "tifffile", "rich", "tyro")


def modules():
    return {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "__init__.py"
    }


def imports(path):
    """Every fluxseg module a file imports, inside functions too, and other packages' names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor(name):
    part = name.split(".")[1]
    for number, parts in enumerate(FLOORS):
        if part in parts:
            return number
    raise AssertionError(f"{name} stands on no floor")


def test_imports_form_a_dag_and_never_point_to_a_later_floor():
    known = modules()
    graph = {name: imports(path) & set(known) for name, path in known.items()}
    assert sum(len(targets) for targets in graph.values()) > 30
    list(graphlib.TopologicalSorter(graph).static_order())
    for name, targets in graph.items():
        for target in targets:
            assert floor(target) <= floor(name), f"{name} imports {target}"
        # The package imports its parts.
        source = known[name].read_text(encoding="utf-8")
        assert not re.search(r"^\s*import fluxseg$", source, re.M), name


@pytest.mark.parametrize("package", ["data", "simulation", "formats"])
def test_reading_and_cutting_needs_no_accelerator(package):
    for name, path in modules().items():
        if name.startswith(f"fluxseg.{package}."):
            assert not {i.split(".")[0] for i in imports(path)} & {"jax", "flax", "optax", "orbax"}
            # Collectives of several processes are for those who call this.
            assert "fluxseg.processes" not in imports(path), name


def test_only_the_widget_and_its_layers_know_napari_and_qt():
    windows = {"napari", "qtpy", "magicgui", "npe2", "PyQt6"}
    users = [
        name
        for name, path in modules().items()
        if {i.split(".")[0] for i in imports(path)} & windows
    ]
    assert users == ["fluxseg.napari.layers", "fluxseg.napari.widget"]
    code = (
        "import sys, fluxseg, fluxseg.cli.app, fluxseg.napari.neurons; "
        f"assert not {windows!r} & set(sys.modules)"
    )
    run_python("-c", code)


def test_files_and_functions_stay_small():
    for path in modules().values():
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 400, f"{path.name} does too much"
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 100, f"{path.name}: {node.name}"


def test_nobody_uses_a_private_name_of_another_file():
    for path in modules().values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        taken = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("fluxseg"):
                taken |= {alias.asname or alias.name: alias.name for alias in node.names}
        private = [name for name in taken.values() if re.match(r"_(?!_version__)", name)]
        private += [
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in taken
            and re.match("_[a-z]", node.attr)
        ]
        assert not private, f"{path.name} uses {private}"


def test_importing_fluxseg_is_cheap_and_touches_no_accelerator():
    code = (
        "import sys, numpy, time; began = time.process_time(); import fluxseg; "
        "took = time.process_time() - began; "
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]; "
        "assert not heavy, heavy; assert took < 1, took; "
        "missing = [n for n in fluxseg.__all__ if not hasattr(fluxseg, n)]; "
        "assert not missing, missing"
    )
    run_python("-c", code)


WITHOUT_ARRAYS = {
    "Config", "DataConfig", "AugmentConfig", "LossConfig", "ModelConfig", "SimulatorConfig",
    "TrainConfig", "FluxsegError", "CropSource", "load_model", "open_source", "prepare_dataset",
    "plot", "read_recording", "simulate_recording", "train_and_evaluate", "write_recording",
    "write_report", "__version__",
}  # fmt: skip
"""Public names that neither take nor give arrays themselves."""


def test_public_names_are_few_and_each_tells_its_shapes():
    assert len(fluxseg.__all__) <= 39
    assert fluxseg.__all__[2:] == sorted(fluxseg.__all__[2:])
    for name in sorted(set(fluxseg.__all__) - {"__version__"}):
        value = getattr(fluxseg, name)
        text = value.__doc__ or ""
        if isinstance(value, type):
            methods = [member for key, member in vars(value).items() if key[0] != "_"]
            text += " ".join(method.__doc__ or "" for method in methods)
        assert text, name
        assert name in WITHOUT_ARRAYS or re.search(r"`\[[^`]*\]`", text), f"{name} tells no shape"

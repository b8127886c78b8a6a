"""The layout that docs describe, as a test: which package may know which, and nothing more."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from layers import BESIDE, LAYERS, ROOMS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "platform"
MANTA = SOURCE / "manta"
MODULES = sorted(MANTA.rglob("*.py"))

ANYONES = {""}  # the package's own __init__: its version
HEAVY = {"ray", "torch"}


def name_of(path):
    """The dotted name of a module."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module):
    """The part of the layout to which a dotted name belongs: "stream", "cli", …"""
    return module.split(".")[1] if "." in module else ""


@cache
def parsed(path):
    """The syntax tree of a file, which many tests here look at."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(path):
    """Every dotted name that a file imports, wherever it does: at the top or in a function."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


KNOWN = {name_of(module) for module in MODULES}


def modules_of(path):
    """The modules of ours that a file imports; a name within a module stands for the module."""
    for name in imports_of(path):
        if name.split(".")[0] == "manta":
            yield name if name in KNOWN else name.rpartition(".")[0]


def outsiders_of(path):
    """The packages of others that a file imports."""
    return {name.split(".")[0] for name in imports_of(path)}


def allowed(package):
    """The packages of ours that `package` may import."""
    if package in BESIDE:
        return BESIDE[package]
    row = next(row for row, layer in enumerate(LAYERS) if package in layer)
    lower = set(chain.from_iterable(LAYERS[row + 1 :]))
    return lower | (set(BESIDE) if row <= LAYERS.index({"elastic"}) else set())


def check_direction(path, package):
    for module in modules_of(path):
        assert package_of(module) in allowed(package) | {package} | ANYONES, (
            f"{path.relative_to(ROOT)} imports {module}: {package} may import only "
            f"{sorted(allowed(package))}"
        )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    package = package_of(name_of(path))
    if package:
        check_direction(path, package)
    else:
        assert not list(modules_of(path)), "importing manta must load none of its packages"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_of_a_package_import_one_way(package):
    rows = {room: row for row, rooms in enumerate(ROOMS[package]) for room in rooms}
    for path in sorted((MANTA / package).rglob("*.py")):
        here = room_of(name_of(path), package)
        for module in modules_of(path):
            if package_of(module) == package and (there := room_of(module, package)) != here:
                assert rows[here] < rows[there], (
                    f"{path.relative_to(ROOT)} imports {module}: {here or package} may import only "
                    f"{sorted(room for room, row in rows.items() if row > rows[here])}"
                )


def room_of(module, package):
    """The room of a package in which a module is, "" if in none: "driver", "pages", …"""
    below = module.split(".")[2:]
    is_room = bool(below) and (MANTA / package / below[0]).is_dir()
    return below[0] if is_room else ""


def test_no_modules_import_each_other():
    """Not in a circle either, wherever in a file the import stands."""
    known = {name_of(path): set(modules_of(path)) - {name_of(path)} for path in MODULES}
    while leaves := {name for name, needs in known.items() if not needs & known.keys()}:
        known = {name: needs for name, needs in known.items() if name not in leaves}
    assert not known, f"circles among: {', '.join(sorted(known))}"


def test_every_package_has_its_place():
    found = {package_of(name_of(path)) for path in MODULES} - ANYONES
    assert found <= set(chain.from_iterable(LAYERS)) | set(BESIDE)


def test_no_public_class_name_stands_for_two_things():
    where = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(name_of(path))
    assert {name: places for name, places in where.items() if len(places) > 1} == {}


def test_no_file_name_stands_for_two_things():
    where = {}
    for path in MODULES:
        if not path.name.startswith("__"):
            where.setdefault(path.name, []).append(name_of(path))
    assert {name: places for name, places in where.items() if len(places) > 1} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.name)
def test_jobs_are_doors(path):
    check_direction(path, "jobs")


PURE = [
    *sorted((MANTA / "config").glob("*.py")),
    *sorted((MANTA / "schedule").glob("*.py")),
    *(MANTA / "stream" / name for name in ("order.py", "mix.py")),
    MANTA / "tune" / "tree.py",
]


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_pure_modules_know_neither_ray_nor_torch(path):
    reached, todo = set(), [path]
    while todo:
        here = todo.pop()
        assert not outsiders_of(here) & HEAVY, here
        reached.add(here)
        todo += {file_of(module) for module in modules_of(here)} - reached - set(todo)


def file_of(module):
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


ENGINE = [
    path
    for path in MODULES
    if package_of(name_of(path)) in {"train", "state", "objective", "model", "parallel"}
]


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_the_engine_knows_neither_ray_nor_wandb(path):
    assert not outsiders_of(path) & {"ray", "wandb"}


@pytest.mark.parametrize("name", ["engine.py", "evaluate.py", "loop.py"])
def test_what_trains_does_not_know_what_is_trained_on(name):
    """What a sample is, and what is summed over it, is the objective's business alone."""
    text = (MANTA / "train" / name).read_text(encoding="utf-8")
    assert not re.findall(r"(?i:labels?\b|cross.?entropy)|\bIGNORE\b|valid_tokens|_mask\b", text)
    assert not {m for m in modules_of(MANTA / "train" / name) if m.endswith(".causal")}


def test_the_step_is_read_at_a_glance():
    tree = parsed(MANTA / "train" / "engine.py")
    (step,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "step")
    assert step.end_lineno - step.lineno + 1 <= 25


def test_one_module_of_the_stream_knows_ray():
    assert [
        path.name for path in sorted((MANTA / "stream").glob("*.py")) if "ray" in outsiders_of(path)
    ] == ["pipeline.py"]


@pytest.mark.parametrize(
    "module",
    [
        *("manta", "manta.api", "manta.config", "manta.schedule"),
        *("manta.stream.order", "manta.stream.plan", "manta.recommend.before_sending"),
    ],
)
def test_light_modules_load_neither_ray_nor_torch(module):
    code = f"import {module}, sys; print(sorted(m for m in {sorted(HEAVY)} if m in sys.modules))"
    assert run_python(code, path=[SOURCE]) == "[]"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path):
    docstring = ast.get_docstring(parsed(path))
    assert docstring, "a module begins with a line on its purpose"
    assert docstring.splitlines()[0].endswith((".", "?", ":")), "its first line is a sentence"


def test_every_package_can_be_imported_as_one():
    for folder in {path.parent for path in MODULES}:
        assert (folder / "__init__.py").exists(), f"{folder}: no __init__.py"


def test_no_room_without_a_name():
    nameless = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in MODULES if {*path.parts[-2:-1], path.stem} & nameless]


def test_pythons_own_platform_module_stays_visible():
    """A package called `platform` at the root would shadow it for everything run from there."""
    assert not (SOURCE / "__init__.py").exists()
    code = "import sys; sys.path.insert(0, ''); import platform; print(platform.python_version())"
    assert run_python(code, path=[]) == ".".join(map(str, sys.version_info[:3]))


def run_python(code, path):
    """What `code` prints, run from the repository's root."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

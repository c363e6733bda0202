"""Import rules: the codec's packages import neither nerfstudio nor gsplat nor viser, and no package imports a later one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmvic_ns.cli.main import EXTRAS

PACKAGE = Path(__file__).resolve().parent.parent / "lmvic_ns"
ORDER = (
    "errors",
    "_util",
    "geometry",
    "bitstream",
    "scene",
    "capture",
    "tree",
    "codec",
    "paper",
    "sparse_points",
    "depth_sources",
    "training",
    "report",
    "drawing",
    "splat",
    "workflows",
    "evaluation",
    "viewer",
    "demo",
    "cli",
)
"""A package imports only from those before it."""
CORE = {"torch", "numpy", "PIL", "safetensors", "numba", "scipy", "av", "jaxtyping", "tyro", "rich"}
"""Modules of the packages that an install without extras brings."""
LIGHT = (
    "_util",
    "scene",
    "capture",
    "geometry",
    "tree",
    "bitstream",
    "codec",
    "depth_sources",
    "training",
    "cli/main.py",
    "errors.py",
)
"""Packages that work without nerfstudio."""
FOREIGN = ("nerfstudio", "gsplat", "viser", "lmvic_ns.splat", "lmvic_ns.viewer", "lmvic_ns.method_configs")
SOURCES = sorted(
    source for name in LIGHT for source in ([PACKAGE / name] if name.endswith(".py") else (PACKAGE / name).rglob("*.py"))
)
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imported_names(source: str, package: str) -> set[str]:
    """Dotted names of everything that the source imports, at any depth, relative imports resolved."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def foreign(names: set[str]) -> set[str]:
    return {name for name in names if any(name == root or name.startswith(root + ".") for root in FOREIGN)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_source_imports_nothing_foreign(source: Path):
    package = ".".join(["lmvic_ns", *source.relative_to(PACKAGE).parent.parts])
    assert not foreign(imported_names(source.read_text(), package))


def test_the_check_sees_every_way_of_importing():
    code = (
        "import gsplat.rendering\ndef f():\n    from nerfstudio import utils\n"
        "    from ..splat import model\n    from .. import viewer\n"
    )
    assert foreign(imported_names(code, "lmvic_ns.codec")) == {
        "gsplat.rendering", "nerfstudio.utils", "lmvic_ns.splat.model", "lmvic_ns.viewer",
    }  # fmt: skip


def ours(module: str) -> set[str]:
    """Modules of this package that a module imports, at any depth but for type checkers."""
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    package = module.rpartition(".")[0]
    found = set()
    for name in imported_names(ast.unparse(tree), package):
        while name.startswith("lmvic_ns."):
            if name in MODULES or f"{name}.__init__" in MODULES:
                found.add(name if name in MODULES else f"{name}.__init__")
                break
            name = name.rpartition(".")[0]
    return found - {module}


GRAPH = {module: ours(module) for module in MODULES}


def test_no_arrow_runs_up():
    def position(module: str) -> int | None:
        name = module.split(".")[1]
        return ORDER.index(name) if name in ORDER else None

    wrong = []
    for module, imports in GRAPH.items():
        own = position(module)
        assert own is not None or module == "lmvic_ns.__init__", f"{module} belongs to no package of ORDER"
        wrong += [f"{module} -> {other}" for other in imports if own is not None and (position(other) or 0) > own]
    assert not wrong


def test_no_circle():
    done: set[str] = set()

    def walk(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module not in done:
            for other in sorted(GRAPH[module]):
                walk(other, (*above, module))
            done.add(module)

    for module in sorted(GRAPH):
        walk(module, ())


def test_importing_light_packages_loads_nothing_foreign():
    """Also through other packages of ours: what is really in sys.modules afterwards."""
    modules = [
        ".".join(["lmvic_ns", *source.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        for source in SOURCES
        if source.name != "__main__.py"
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n    importlib.import_module(name)\n"
        f"print([m for m in sys.modules if m.split('.')[0] in {FOREIGN[:3]!r} or m in {FOREIGN[3:]!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_one_module_writes_datasets():
    """`scene/writer.py`; everything else goes through it."""
    writing = re.compile(r"transforms\.json\"\)?[^\n]*(\.write_|\.open\(\"w)|json\.dump\(|end_header")
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if writing.search(path.read_text())}
    assert found == {"scene/writer.py", "scene/ply.py"}


def test_everything_imported_is_declared():
    """By the package or by one of its extras; fsspec and triton come with torch."""
    declared = (PACKAGE.parent / "pyproject.toml").read_text()
    block = declared.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert set(re.findall(r"^(\w+) = ", block, re.M)) - {"all", "docs", "dev"} == set(EXTRAS)
    known = {name for names in EXTRAS.values() for name in names} | CORE | {"fsspec", "triton", "lmvic_ns"}
    foreign: dict[str, set[str]] = {}
    for source in MODULES.values():
        for name in imported_names(source.read_text(), "lmvic_ns"):
            first = name.partition(".")[0]
            if first not in known and first not in sys.stdlib_module_names:
                foreign.setdefault(first, set()).add(source.name)
    assert not foreign

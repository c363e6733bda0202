"""The examples use the public interface alone, and run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lmvic_ns

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOT_PUBLIC = {"lmvic_ns.demo.scene"}  # the room of `lmvic demo`, where no scene is given


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_examples_use_public_names_alone(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lmvic_ns"):
            assert node.module in NOT_PUBLIC, f"{script.name} imports {node.module}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lmvic_ns":
            assert node.attr in lmvic_ns.__all__, f"{script.name} uses lmvic_ns.{node.attr}"
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("number", ["02", "03", "05", "06"])
def test_examples_run_on_a_scene(number: str, room: Path, tmp_path: Path) -> None:
    (script,) = EXAMPLES.glob(f"{number}_*.py")
    (tmp_path / "examples").mkdir()
    for path in SCRIPTS:  # a copy, so that nothing is written into the checkout
        (tmp_path / "examples" / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, tmp_path / "examples" / script.name, room]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "examples" / "outputs").glob(f"{number}_*.png"))

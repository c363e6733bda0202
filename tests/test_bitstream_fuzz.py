"""A small slice of benchmarks/fuzz.py, and proof that its judge can find fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import fuzz
from fuzz import MUTATIONS
from fuzz_mutations import FileParts, Mutated
from fuzz_real import write_real_files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    paths = [folder / "a.lmvic", folder / "b.lmvic"]
    for i, (path, shape) in enumerate(zip(paths, [(6, 96, 64), (2, 48, 40)], strict=True)):
        fuzz.SyntheticCodec().write(path, *shape, seed=i)
    return paths


def test_every_kind_of_damage_ends_well(files: list[Path]) -> None:
    results, _ = fuzz.run_all(fuzz.Job(files, 5 * len(MUTATIONS), seed=1, weights=None))
    assert len(results) == 5 * len(MUTATIONS)
    assert [r for r in results if r.outcome == "failure"] == []
    for name in MUTATIONS:
        assert sum(r.mutation == name for r in results) == 5
    assert {r.outcome for r in results} == {"whole", "partial", "refused", "other"}


def test_the_judge_finds_fault(files: list[Path]) -> None:
    parts = FileParts.read(files[0])
    normal, _ = fuzz.SyntheticCodec()(files[0], parts.max_pixels)
    unharmed = Mutated(parts.data)
    assert fuzz.judge(parts, unharmed, normal, normal, {}) == ("whole", "")
    assert "without an error" in fuzz.judge(parts, unharmed, normal, normal | {1: "else"}, {})[1]
    assert "gone without a word" in fuzz.judge(parts, unharmed, normal, {v: d for v, d in normal.items() if v != 8}, {})[1]
    without = {view: digest for view, digest in normal.items() if view != 2}
    assert "is whole but was refused" in fuzz.judge(parts, unharmed, normal, without, {2: "view 2: expected"})[1]
    hostile = Mutated(parts.data, hostile=True, untouched={2})
    assert "not touched but changed" in fuzz.judge(parts, hostile, normal, without, {2: "view 2: expected"})[1]
    vague = fuzz.judge(parts, Mutated(b"", hostile=True), normal, without, {2: "something failed"})
    assert "names no place" in vague[1]


def test_what_must_decode_follows_the_tree(files: list[Path]) -> None:
    parts = FileParts.read(files[0])
    assert fuzz.undamaged(parts, parts.data) == set(range(6))
    broken = parts.data.replace(parts.units[1], parts.units[1][:-1] + b"?")
    assert fuzz.undamaged(parts, broken) == {view for view in range(6) if view != 1 and 1 not in parts.header.ancestors(view)}
    assert fuzz.undamaged(parts, b"?" + parts.data) == set()


@pytest.mark.slow
def test_files_of_the_real_weights_end_well_too(tmp_path: Path) -> None:
    made = write_real_files(tmp_path, ["tiny"])
    results, _ = fuzz.run_all(fuzz.Job(made, 2 * len(MUTATIONS), seed=3, weights=["tiny"], memory=1024))
    assert len(results) == 2 * len(MUTATIONS)
    assert [r for r in results if r.outcome == "failure"] == []


def test_memory_beyond_the_limit_is_refused() -> None:
    """In a process of its own: a limit cannot be taken back."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch, fuzz_real; fuzz_real.limit_memory(256)\n"
        "torch.zeros(1 << 24)\n"
        "try:\n    torch.zeros(1 << 30)\n"
        "except (MemoryError, RuntimeError):\n    print('refused')"
    )
    folder = str(Path(fuzz.__file__).parent)
    assert subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True).stdout == "refused\n"

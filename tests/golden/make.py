"""Makes the files of this folder and what they decode to: `python tests/golden/make.py`. It replaces nothing.

To be run once for each version of the format. What is here stays, since every later version has to decode it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent
sys.path[:0] = [str(GOLDEN.parent), str(GOLDEN.parent.parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from codec_scenes import plane_scene, small_model  # noqa: E402
from test_capture import write_capture  # noqa: E402
from test_golden import RECORDS, decoded_facts, section_facts  # noqa: E402

from lmvic_ns.codec import EncodeOptions, save_weights  # noqa: E402
from lmvic_ns.codec.effort import Effort  # noqa: E402
from lmvic_ns.codec.multiview import load_codec  # noqa: E402
from lmvic_ns.codec.pictures.av1 import Av1Search  # noqa: E402
from lmvic_ns.codec.pictures.hevc import HevcSearch  # noqa: E402
from lmvic_ns.scene import MultiViewScene  # noqa: E402
from lmvic_ns.scene.ply import write_ply  # noqa: E402
from lmvic_ns.scene.points import SparsePoints  # noqa: E402
from lmvic_ns.tree.ordering import ReferenceTree, independent_views  # noqa: E402


def brighter(scene: MultiViewScene) -> MultiViewScene:
    """The scene with another exposure in every second view."""

    def image(index: int) -> torch.Tensor:
        picture = scene.image(index) * (0.8 if index % 2 else 1.0) + (0.05 if index % 2 else 0.0)
        return (picture * 255).round() / 255

    return MultiViewScene(scene.names, scene.cameras, image, scene.inverse_depth)


def with_passers_by(scene: MultiViewScene) -> MultiViewScene:
    """The scene with something in front of it in views 1 and 2, at different places: view 3 finds each part in another view."""

    def image(index: int) -> torch.Tensor:
        picture = scene.image(index).clone()
        if index in (1, 2):
            rough = torch.rand(3, 10, 8, generator=torch.Generator().manual_seed(index))
            rough = torch.nn.functional.interpolate(rough[None], (60, 32), mode="bicubic")[0]
            picture[:, 10:70, 48 * index - 40 : 48 * index - 8] = rough.clamp(0, 1)
        return (picture * 255).round() / 255

    return MultiViewScene(scene.names, scene.cameras, image, scene.inverse_depth)


def main() -> int:
    weights = GOLDEN / "small.safetensors"
    if not weights.exists():
        save_weights(small_model(7), weights, {"name": "small", "data": "none: random numbers"})
    codec = load_codec(weights)
    scene = brighter(plane_scene([(56, 72)] * 4, detail=3.0))
    tree = ReferenceTree.from_parents(range(4), (-1, 0, 1, 0))
    networks = replace(Effort.named("medium"), stored=False, alone=False, av1=None, hevc=None)
    pictures = replace(networks, av1=Av1Search(7, 7, predicted=True), alone=True)
    blocks = replace(networks, hevc=HevcSearch("fast"))
    plain = MultiViewScene(scene.names, scene.cameras, scene.image, None)
    cases = {
        "networks": (scene, tree, EncodeOptions(24, effort=networks)),
        "alone": (plain, independent_views(4), EncodeOptions(40, effort=networks)),
        "learned-depth": (scene, tree, EncodeOptions(24, effort=networks.with_learned_depth())),
        "av1": (scene, tree, EncodeOptions(30, effort=pictures)),
        "hevc": (brighter(plane_scene([(80, 96)] * 4, detail=3.0)), tree, EncodeOptions(40, effort=blocks)),
        "hevc-ancestors": (
            with_passers_by(brighter(plane_scene([(80, 96)] * 4, detail=3.0))),
            ReferenceTree.from_parents(range(4), (-1, 0, 1, 2)),
            EncodeOptions(40, effort=blocks),
        ),
        "stored": (plane_scene([(56, 72)] * 2, detail=3.0), None, EncodeOptions(20)),
        "lossless": (scene, independent_views(4), EncodeOptions(lossless=True, with_depth=False)),
    }
    for name, (views, references, options) in cases.items():
        path = GOLDEN / f"{name}.lmvic"
        if not path.exists():
            codec.encode(views, path, tree=references, options=options)
    capture = GOLDEN / "capture.lmvic"
    if not capture.exists():
        with tempfile.TemporaryDirectory() as folder:
            source = write_capture(Path(folder) / "capture", ply_file_path="points.ply")
            generator = np.random.default_rng(1)
            where = generator.uniform(-0.3, 0.3, (200, 3)) + np.array([0.2, 0, -2.0])
            colours = generator.integers(0, 256, (200, 3), dtype=np.uint8)
            write_ply(source / "points.ply", SparsePoints(where.astype(np.float32), colours))
            environment = {**os.environ, "PYTHONPATH": str(GOLDEN.parent.parent)}
            program = "import sys; from lmvic_ns.cli.main import entrypoint; entrypoint()"
            command = ["encode", str(source), str(capture), "--weights", str(weights), "--device", "cpu", "--effort", "fast"]
            subprocess.run([sys.executable, "-c", program, *command], check=True, env=environment)
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for path in sorted(GOLDEN.glob("*.lmvic")):
        if path.stem not in records:
            pictures_of, facts = decoded_facts(path, weights)
            records[path.stem] = {"views": facts, "sections": section_facts(path)}
            np.savez_compressed(GOLDEN / f"{path.stem}.npz", **pictures_of)  # type: ignore[arg-type]
    RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Makes a small dataset, codes and decodes it with the `lmvic` beside this Python: for an environment with the wheel alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

scratch = Path(sys.argv[1])
(scratch / "scene" / "images").mkdir(parents=True)
frames = []
for number in range(3):
    coarse = np.random.default_rng(1).integers(0, 256, (12, 18, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((192, 128), Image.Resampling.BICUBIC)
    picture.save(scratch / "scene" / "images" / f"{number}.png")
    matrix = np.eye(4)
    matrix[0, 3] = number / 10
    frames.append({"file_path": f"images/{number}.png", "transform_matrix": matrix.tolist()})
camera = {"fl_x": 150.0, "fl_y": 150.0, "cx": 96.0, "cy": 64.0, "w": 192, "h": 128}
(scratch / "scene" / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))
lmvic = Path(sys.executable).parent / "lmvic"
for command in (
    ("encode", "scene", "scene.lmvic"),
    ("verify", "scene.lmvic"),
    ("info", "scene.lmvic", "--json"),
    ("decode", "scene.lmvic", "again"),
):
    subprocess.run([lmvic, *command], cwd=scratch, check=True, stdout=None if command[0] != "info" else subprocess.DEVNULL)
for number in range(3):
    pictures = [np.asarray(Image.open(scratch / name / "images" / f"{number}.png"), float) for name in ("scene", "again")]
    error = np.square(pictures[0] - pictures[1]).mean()
    assert error < 20, error
print("the wheel without extras codes and decodes")

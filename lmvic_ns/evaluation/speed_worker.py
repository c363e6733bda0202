"""`python -m lmvic_ns.evaluation.speed_worker TASK JSON`: one measurement in a process of its own; prints one line of JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lmvic_ns.codec import build_model, load_codec, preset_names, save_weights, weights_names
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.networks.complexity import macs_per_pixel, parameters
from lmvic_ns.codec.planning import default_tree, depth_first
from lmvic_ns.codec.records import EncodeOptions
from lmvic_ns.evaluation.speed import StageClock, stage_targets
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene


def plane_scene(views: int, height: int, width: int) -> MultiViewScene:
    """Cameras side by side before a textured plane at depth 2: references are useful, as in a real scene."""
    generator = torch.Generator().manual_seed(0)
    step = max(2, width // 32)
    wide = torch.rand(1, 3, height // 4 + 2, (width + step * views) // 4 + 2, generator=generator)
    wide = torch.nn.functional.interpolate(wide, scale_factor=4, mode="bicubic").clamp(0, 1)[0]
    focal = float(width)
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    poses[:, 0, 3] = -torch.arange(views) * step * 2.0 / focal
    cameras = Cameras(intrinsics.repeat(views, 1, 1), poses, torch.full((views,), height), torch.full((views,), width))
    images = [wide[:, :height, i * step : i * step + width] for i in range(views)]
    return MultiViewScene([f"view{i}" for i in range(views)], cameras, images, [torch.full((height, width), 0.5)] * views)


def _scene(task: dict[str, Any]) -> MultiViewScene:
    if task["scene"] is None:
        return plane_scene(task["views"], *task["size"])
    scene = MultiViewScene.from_dataset(task["scene"])
    chosen = depth_first(default_tree(scene))[: task["views"]]
    return scene.select(sorted(chosen))


def _codec(task: dict[str, Any]):
    untrained = Path(task["model"])
    return load_codec(untrained if untrained.is_file() else task["weights"], task["device"])


def _clock(device: str) -> StageClock:
    return StageClock(torch.cuda.synchronize) if device != "cpu" else StageClock()


def _peak_mb(device: str) -> float:
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def prepare(task: dict[str, Any]) -> dict[str, Any]:
    """Weights for a preset that has none; parameters; multiply-accumulates of a view that has a reference."""
    name = task["weights"]
    if name == "paper" and name not in weights_names():
        from lmvic_ns.paper.model import PaperCodec
        from lmvic_ns.paper.weights import serialize

        torch.manual_seed(0)
        codec = PaperCodec()
        codec.update()
        Path(task["model"]).write_bytes(serialize(codec, {"name": "paper (untrained)"}))
        name = "paper (untrained)"
    elif name not in weights_names() and name in preset_names():
        save_weights(build_model(name), Path(task["model"]), {"name": f"{name} (untrained)"})
        name = f"{name} (untrained)"
    codec = _codec(task)
    scene = plane_scene(2, 256, 256)
    image, depth, cameras = [scene.image(i)[None] for i in range(2)], scene.inverse_depth(0)[None].double(), scene.cameras
    compress, decompress = codec.model.compress, codec.model.decompress
    _, _, reference = compress(image[0], depth, cameras[0], None, task["quality"])
    parts: list[bytes] = []

    def encode() -> None:
        parts[:] = compress(image[1], depth, cameras[1], reference, task["quality"])[:2]

    encode_macs = macs_per_pixel(encode, codec.model, 256 * 256)
    decode_macs = macs_per_pixel(
        lambda: decompress(parts[0], parts[1], (256, 256), cameras[1], reference, task["quality"]), codec.model, 256 * 256
    )
    return {
        "name": codec.weights.name if name == task["weights"] else name,
        "encode_macs": encode_macs,
        "decode_macs": decode_macs,
        "parameters": parameters(codec.model),
    }


def encode(task: dict[str, Any]) -> dict[str, Any]:
    """Time of encoding, a view, after a warm-up."""
    codec, scene, path = _codec(task), _scene(task), Path(task["file"])
    images, depths = [scene.image(i) for i in range(len(scene))], [scene.inverse_depth(i) for i in range(len(scene))]
    scene = MultiViewScene(scene.names, scene.cameras, images, depths)  # reading pictures is not coding them
    options = EncodeOptions(quality=task["quality"], effort=Effort.named(task["effort"]))
    codec.encode(scene.select([0]), path, options=options)
    clock = _clock(task["device"])
    tree = default_tree(scene)
    start, start_cpu = time.perf_counter(), time.process_time()
    with clock.timed(stage_targets(codec.model)), clock.stage("other"):
        codec.encode(scene, path, tree=tree, options=options)
    total, processor = time.perf_counter() - start, time.process_time() - start_cpu
    pixels = sum(int(h) * int(w) for h, w in zip(scene.cameras.height, scene.cameras.width, strict=True))
    views = len(scene)
    return {
        "views": views,
        "pixels": pixels // views,
        "seconds": {**{k: v / views for k, v in clock.seconds.items()}, "total": total / views, "processor": processor / views},
        "peak_mb": _peak_mb(task["device"]),
        "bits_per_pixel": 8 * path.stat().st_size / pixels,
    }


def decode(task: dict[str, Any]) -> dict[str, Any]:
    """Time of decoding all views, a view, after a warm-up."""
    codec, path = _codec(task), Path(task["file"])
    next(codec.decode(path))
    clock = _clock(task["device"])
    start, start_cpu = time.perf_counter(), time.process_time()
    with clock.timed(stage_targets(codec.model)), clock.stage("other"):
        views = sum(1 for _ in codec.decode(path))
    total, processor = time.perf_counter() - start, time.process_time() - start_cpu
    seconds = {**{k: v / views for k, v in clock.seconds.items()}, "total": total / views, "processor": processor / views}
    return {"seconds": seconds, "peak_mb": _peak_mb(task["device"])}


def main(arguments: list[str]) -> None:
    """Run one task."""
    task = json.loads(arguments[1])
    torch.set_num_threads(task["threads"])
    print(json.dumps({"prepare": prepare, "encode": encode, "decode": decode}[arguments[0]](task)))


if __name__ == "__main__":
    main(sys.argv[1:])

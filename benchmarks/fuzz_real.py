"""What fuzz.py needs for real files: the codec, sparse points, small files made with it, and a limit on a process's memory."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.errors import BitstreamError
from lmvic_ns.sparse_points.compact import TAG, pack_compact, unpack_compact
from lmvic_ns.sparse_points.grid import Pinholes

MEGABYTE = 1 << 20


def points_section(cameras: Pinholes, count: int, seed: int = 0) -> bytes:
    """The section of compact sparse points of a file: some in front of each camera."""
    generator = np.random.default_rng(seed)
    rays = generator.uniform(-0.3, 0.3, (len(cameras), count, 3)) * [1, 1, 0] + [0, 0, 1]
    seen = rays * (3 + rays[..., :1]) - cameras.translation[:, None]
    world = np.einsum("vji,vnj->vni", cameras.rotation, seen).reshape(-1, 3)
    return pack_compact(world.astype(np.float32), None, cameras, lambda view, pixels: np.zeros((len(pixels), 3), np.uint8))


def decode_point_sections(reader: Reader, decoded: dict[int, str], reasons: dict[int, str]) -> None:
    """A digest of the sparse points, or why they do not decode; they count as a view after the last one."""
    number = len(reader.header.views)
    try:
        data = reader.section(TAG)
        if data is not None:
            points = unpack_compact(data, Pinholes.of_file(reader.header))
            decoded[number] = hashlib.sha256(points.positions.tobytes() + points.view.tobytes()).hexdigest()
    except BitstreamError as error:
        reasons[number] = str(error)


class RealCodec:
    """The codec of this package, with the weights that each file needs.

    Args:
        weights: names or paths; a file of none of them is decoded with the first (and refused by it).
    """

    def __init__(self, weights: Sequence[str]) -> None:
        import torch

        from lmvic_ns.codec import load_codec

        torch.set_num_threads(1)
        self.codecs = [load_codec(name) for name in weights]

    def __call__(self, path: Path, max_pixels: int) -> tuple[dict[int, str], dict[int, str]]:
        """Digest of each view that decoded, and the reason for each other one."""
        reasons: dict[int, str] = {}
        with Reader(path, max_pixels=max_pixels) as reader:
            fitting = [codec for codec in self.codecs if codec.weights.hash == reader.header.weights_hash]
            decoded = {}
            for view in (fitting or self.codecs)[0].decode(reader, problems=reasons):
                digest = hashlib.sha256(view.image.numpy().tobytes())
                if view.inverse_depth is not None:
                    digest.update(view.inverse_depth.numpy().tobytes())
                decoded[view.index] = digest.hexdigest()
            decode_point_sections(reader, decoded, reasons)
        return decoded, reasons


def write_real_files(folder: Path, weights: Sequence[str]) -> list[Path]:
    """For each weights a file with quadtree depth, one with learned depth, and one without references."""
    from lmvic_ns.codec import load_codec
    from lmvic_ns.codec.effort import Effort
    from lmvic_ns.codec.multiview import EncodeOptions
    from lmvic_ns.evaluation.speed_worker import plane_scene
    from lmvic_ns.tree.ordering import independent_views

    files = []
    fast = Effort.named("fast")
    for number, name in enumerate(weights):
        codec = load_codec(name)
        for kind, views, effort in (("quadtree", 3, fast), ("learned", 3, fast.with_learned_depth()), ("alone", 2, fast)):
            scene = plane_scene(views, 40, 56)
            files.append(folder / f"real_{number}_{kind}.lmvic")
            tree = independent_views(views) if kind == "alone" else None
            sections = {TAG: points_section(Pinholes.to_be_stored(scene.cameras), 60)}
            codec.encode(scene, files[-1], tree=tree, options=EncodeOptions(quality=20, effort=effort), sections=sections)
    return files


def limit_memory(megabytes: int) -> None:
    """Let this process take so much more address space than it has now; beyond it, allocations fail (Linux).

    A forged size then ends in a MemoryError, which is counted as a failure, even where the memory is torch's own and
    tracing does not see it.
    """
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + megabytes * MEGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

"""What fuzz.py needs for real files: the codec, points, a capture's data, small files made with it, a limit on memory."""

from __future__ import annotations

import hashlib
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.capture import SECTION_NAMES
from lmvic_ns.capture.masks import pack_masks
from lmvic_ns.capture.photographs import PhotographData, pack_photographs
from lmvic_ns.capture.records import CaptureRecords, LensCamera, pack_records
from lmvic_ns.capture.sections import FileCapture
from lmvic_ns.codec.records import DecodedView
from lmvic_ns.errors import BitstreamError
from lmvic_ns.geometry.undistortion import LensDistortion, PinholeModel
from lmvic_ns.sparse_points.compact import TAG, pack_compact, unpack_compact
from lmvic_ns.sparse_points.grid import Pinholes
from lmvic_ns.workflows.dataset import DatasetFormat, DatasetWriter

MEGABYTE = 1 << 20
FORMS = (
    DatasetFormat("original", lens="original"),
    DatasetFormat("png", lens="original", layout="colmap"),
    DatasetFormat("jpg"),
    DatasetFormat("webp", depth=False),
)
"""How the views of a case are written, one after the other."""


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


def capture_data(sizes: Sequence[tuple[int, int]], folder: Path, seed: int = 0) -> dict[str, bytes]:
    """The sections META, MASK and PHOT of a file whose views have these heights and widths; all that they can hold is there.

    Args:
        sizes: of the views.
        folder: to write mask files to.
        seed: of what they hold.
    """
    random = np.random.default_rng(seed)
    views = range(len(sizes))
    masks: list[Path | None] = []
    for view, (height, width) in enumerate(sizes):
        masks.append(None if view == 1 else folder / f"mask_{seed}_{view}.png")
        if masks[-1] is not None:
            grey = random.integers(0, 2, (height, width), dtype=np.uint8) * 255 if view else np.full((height, width), 255)
            Image.fromarray(grey.astype(np.uint8)).save(masks[-1])
    lens = LensDistortion(-0.05, 0.01, 0.0, 0.001, -0.001)
    cameras = [LensCamera(PinholeModel(width * 0.9, width * 0.9, width / 2, height / 2), lens, height, width)
               for height, width in sizes]  # fmt: skip
    records = CaptureRecords(
        tuple(f"rgb/{'left' if view % 2 else 'right'}/{view // 2:04d}.jpg" for view in views),
        {"train_filenames": ["rgb/right/0000.jpg"], "applied_scale": 0.25, "rig": {"note": "\u00fc", "at": [1.5, None]}},
        tuple({"timestamp": 1.5e9 + view / 3, **({"exposure": [view, "auto"]} if view % 2 else {})} for view in views),
        tuple(reversed(views)),
        tuple(None if mask is None else f"masks/{mask.name}" for mask in masks),
        tuple(None if view == 0 else cameras[view] for view in views),
        "points/sparse.ply",
        0.01,
    )
    exif = Image.Exif()
    exif[0x0110] = "a camera"
    profile = random.bytes(16) + b"RGB " + random.bytes(100)
    photographs = [PhotographData(exif.tobytes().removeprefix(b"Exif\0\0"), f"<x:xmpmeta n='{view}'/>".encode(), profile)
                   for view in views]  # fmt: skip
    sections = {"META": pack_records(records), "MASK": pack_masks(masks, sizes), "PHOT": pack_photographs(photographs)}
    assert list(sections) == list(SECTION_NAMES)
    return sections


def decode_capture(reader: Reader, decoded: dict[int, str], reasons: dict[int, str]) -> FileCapture:
    """Digests of the records, the masks and the photographs' data, or why they do not decode: views behind the points.

    What is wrong with the file as a whole counts as the reason of view -1.
    """
    views = range(len(reader.header.views))
    capture = FileCapture(reader)
    for number, (tag, what) in enumerate(SECTION_NAMES.items(), start=len(views) + 1):
        if tag not in reader.sections():
            continue
        found: list[object] = []
        reason = capture.problems.get(what)
        try:
            if tag == "META":
                found = [capture.records]
            elif tag == "PHOT":
                found = [capture.photograph(view) for view in views]
            else:
                reason = reason or capture.problems.get("place of masks")
                shown = [capture.mask(view) for view in views if capture.has_mask(view)]
                found = [(mask.shape, mask.tobytes()) for mask in shown if mask is not None]
        except BitstreamError as error:
            reason = reason or str(error)
        if reason is None:
            decoded[number] = hashlib.sha256(repr(found).encode("utf-8", "backslashreplace")).hexdigest()
        else:
            reasons[number] = reason
    if whole := [*reader.problems, *reader.damaged_tags().values()]:
        reasons[-1] = whole[0]
    return capture


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
        self._number = 0

    def __call__(self, path: Path, max_pixels: int) -> tuple[dict[int, str], dict[int, str]]:
        """Digest of each view that decoded, and the reason for each other one."""
        reasons: dict[int, str] = {}
        with Reader(path, max_pixels=max_pixels) as reader:
            fitting = [codec for codec in self.codecs if codec.weights.hash == reader.header.weights_hash]
            decoded = {}
            shown = []
            for view in (fitting or self.codecs)[0].decode(reader, problems=reasons):
                shown.append(view)
                digest = hashlib.sha256(view.image.numpy().tobytes())
                if view.inverse_depth is not None:
                    digest.update(view.inverse_depth.numpy().tobytes())
                decoded[view.index] = digest.hexdigest()
            decode_point_sections(reader, decoded, reasons)
            capture = decode_capture(reader, decoded, reasons)
            self._number += 1
            if shown:
                self._write(shown, [view.name for view in reader.header.views], capture)
        return decoded, reasons

    def _write(self, shown: Sequence[DecodedView], names: list[str], capture: FileCapture) -> None:
        """The first view as a dataset, each time in another form: what a hostile capture says becomes names and files there."""
        form = FORMS[self._number % len(FORMS)]
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "below" / "out"
            with DatasetWriter(place, names, form, capture=capture) as writer:
                writer.add_view(shown[self._number % len(shown)])
            outside = {path.name for path in [*Path(folder).iterdir(), *place.parent.iterdir()]} - {"below", "out"}
            if outside:
                raise AssertionError(f"files outside of the dataset: {sorted(outside)}")


def write_real_files(folder: Path, weights: Sequence[str]) -> list[Path]:
    """For each weights a file with quadtree depth, one with learned depth, and one without references."""
    from lmvic_ns.codec import load_codec
    from lmvic_ns.codec.effort import Effort
    from lmvic_ns.codec.records import EncodeOptions
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
            points = points_section(Pinholes.to_be_stored(scene.cameras), 60)
            sections = {TAG: points, **capture_data([(40, 56)] * views, folder, number)}
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

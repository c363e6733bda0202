"""Values are never cut silently: pictures of more than 8 bits, in every format that Pillow reads, and colours of points."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from export_scenes import write_room
from PIL import Image

from lmvic_ns._util.pictures import bits_a_channel
from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import read_points

RED = np.random.default_rng(0).integers(0, 65536, (48, 64, 3)).astype(np.uint16)


def stored(kind: str) -> bytes:
    """A picture of 48 x 64 pixels with more than 8 bits a channel."""
    if kind == "ppm":
        return b"P6 # a comment\n64\n# another\n48 65535\n" + RED.astype(">u2").tobytes()
    if kind == "sgi":
        head = struct.pack(">hBBHHHHll4s80sl404x", 474, 0, 2, 3, 64, 48, 3, 0, 65535, b"", b"", 0)
        return head + np.moveaxis(RED, 2, 0)[:, ::-1].astype(">u2").tobytes()
    cv2 = pytest.importorskip("cv2")
    return cv2.imencode(f".{kind}", RED)[1].tobytes()


@pytest.mark.parametrize("kind", ["png", "tif", "ppm", "jp2", "sgi"])
def test_deep_colours_are_refused(kind, tmp_path):
    room = write_room(tmp_path / "room")
    path = room / "images" / f"001.{kind}"
    path.write_bytes(stored(kind))
    text = (room / "transforms.json").read_text().replace("001.png", path.name)
    (room / "transforms.json").write_text(text)
    with pytest.raises(SceneError, match=r"001\.\w+: more than 8 bits a channel \(16\)"):
        MultiViewScene.from_dataset(room)
    from lmvic_ns.evaluation.image_set import read_picture

    with pytest.raises(SceneError, match="more than 8 bits"):
        read_picture(path)
    nerfstudio = pytest.importorskip("nerfstudio.data.dataparsers.nerfstudio_dataparser")
    from lmvic_ns.splat.datamanager import CaptureDataset

    outputs = nerfstudio.NerfstudioDataParserConfig(data=room, eval_mode="all").setup().get_dataparser_outputs("train")
    with pytest.raises(SceneError, match="more than 8 bits"):
        CaptureDataset(outputs).get_numpy_image(1)


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm", "jpeg2000", "sgi", "avif", "webp", "jpeg", "bmp", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_eight_bits_pass(kind, mode, tmp_path):
    path = tmp_path / "picture"
    try:
        Image.fromarray((RED >> 8).astype(np.uint8)).convert(mode).save(path, kind)
    except (KeyError, OSError, ValueError):
        pytest.skip(f"this Pillow writes no {kind}")
    with Image.open(path) as picture:
        assert bits_a_channel(path, picture) == 8


def test_ten_bit_avif(tmp_path):
    """As its configuration box says (no encoder of this Pillow writes one)."""
    stream = io.BytesIO()
    try:
        Image.fromarray((RED >> 8).astype(np.uint8)).save(stream, "AVIF")
    except (KeyError, OSError):
        pytest.skip("this Pillow writes no AVIF")
    data, path = bytearray(stream.getvalue()), tmp_path / "a.avif"
    path.write_bytes(data)
    with Image.open(path) as picture:
        for flag, bits in ((0x40, 10), (0x60, 12)):
            changed = data.copy()
            changed[data.index(b"av1C") + 6] |= flag
            path.write_bytes(changed)
            assert bits_a_channel(path, picture) == bits


def write_coloured(path: Path, kind: str, colours: np.ndarray) -> Path:
    fields = [(axis, "<f4") for axis in "xyz"] + [(name, colours.dtype.newbyteorder("<")) for name in ("red", "green", "blue")]
    table = np.zeros(len(colours), np.dtype(fields))
    for column, name in enumerate(("red", "green", "blue")):
        table[name] = colours[:, column]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(colours)}"]
    lines += [
        *(f"property float {a}" for a in "xyz"),
        *(f"property {kind} {c}" for c in ("red", "green", "blue")),
        "end_header",
    ]
    path.write_bytes(("\n".join(lines) + "\n").encode() + table.tobytes())
    return path


def test_colours_of_points_keep_their_shade(tmp_path, capsys):
    shades = np.array([[0, 128, 255], [10, 20, 30]])
    for kind, values in (
        ("uchar", shades.astype(np.uint8)),
        ("ushort", (shades * 257).astype(np.uint16)),
        ("float", (shades / 255).astype(np.float32)),
    ):
        found = read_points(write_coloured(tmp_path / "p.ply", kind, values))[1]
        assert found is not None and np.array_equal(found, shades), kind
        assert ("16 bits are rounded" in capsys.readouterr().err) == (kind == "ushort")
    for kind, values in (
        ("int", shades.astype(np.int32)),
        ("float", shades.astype(np.float32)),
        ("char", shades.astype(np.int8)),
    ):
        with pytest.raises(SceneError, match=r"p\.ply: colours of type"):
            read_points(write_coloured(tmp_path / "p.ply", kind, values))

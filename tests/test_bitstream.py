"""The .lmvic file: checksums, header, and what is written is read, view by view."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from bitstream_files import VIEWS, parts, rotation, scene, write

from lmvic_ns.bitstream import layout, limits
from lmvic_ns.bitstream.crc32c import crc32c
from lmvic_ns.bitstream.header import FileHeader, pack_header, unpack_header
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.errors import BitstreamError, LmvicError, SceneError


@pytest.fixture
def header() -> FileHeader:
    return FileHeader.build(**scene())


@pytest.fixture
def path(tmp_path: Path, header: FileHeader) -> Path:
    return write(tmp_path / "scene.lmvic", header)


# ---------------------------------------------------------------------------------------------------------------------
# checksum


def test_crc32c_is_the_one_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_crc32c_joins_pieces_of_any_length() -> None:
    def slow(data: bytes) -> int:
        register = 0xFFFFFFFF
        for byte in data:
            register ^= byte
            for _ in range(8):
                register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
        return register ^ 0xFFFFFFFF

    data = np.random.default_rng(0).bytes(20_011)
    for size in (0, 1, 255, 4096, 4097, 4160, 8191, 20_011):
        assert crc32c(data[:size]) == slow(data[:size])
        assert crc32c(data[size:], crc32c(data[:size])) == crc32c(data)
    long = np.random.default_rng(1).bytes((1 << 20) + 3)
    assert crc32c(long) == crc32c(long[70_000:], crc32c(long[:70_000]))


# ---------------------------------------------------------------------------------------------------------------------
# header


def test_the_header_reads_back_as_the_encoder_holds_it(header: FileHeader) -> None:
    assert unpack_header(pack_header(header)) == header
    again = unpack_header(pack_header(header))
    assert again.world_to_camera().tobytes() == header.world_to_camera().tobytes()
    assert again.intrinsics().tobytes() == np.ascontiguousarray(scene()["intrinsics"]).tobytes()


def test_poses_are_kept_to_a_thousandth_of_a_pixel() -> None:
    """Points 2 units before the cameras, seen at 8K, in geographic coordinates far from the origin."""
    values = scene(40)
    motions = values["world_to_camera"]
    origin = np.array([4.5e5, 5.4e6, 300.0])
    motions[:, :3, 3] -= np.einsum("vij,j->vi", motions[:, :3, :3], origin)
    stored = FileHeader.build(**values).world_to_camera()
    rng = np.random.default_rng(1)
    seen = np.concatenate([rng.uniform(-1, 1, (50, 2)), np.full((50, 1), 2.0)], axis=1)
    for before, after in zip(motions, stored, strict=True):
        world = (seen - before[:3, 3]) @ before[:3, :3]
        moved = world @ after[:3, :3].T + after[:3, 3]
        error = 8000 * (moved[:, :2] / moved[:, 2:] - seen[:, :2] / seen[:, 2:])
        assert np.abs(error).max() < 1e-2
        assert np.abs(after[:3, :3] @ after[:3, :3].T - np.eye(3)).max() < 1e-15 * 8


def test_half_turns_keep_their_rotation() -> None:
    """Where the quaternion's w is zero, and where it is one."""
    values = scene(4)
    for i, axis in enumerate(np.eye(3)):
        values["world_to_camera"][i, :3, :3] = rotation(axis, math.pi)
    values["world_to_camera"][3, :3, :3] = np.eye(3)
    stored = FileHeader.build(**values).world_to_camera()
    assert np.abs(stored[:, :3, :3] - values["world_to_camera"][:, :3, :3]).max() < 1e-6


def test_views_may_differ_in_size_camera_quality_and_parameters() -> None:
    values = scene(quality=3, view_quality=[3, 3, 3, 7.5, 3, 3], parameters={"near": 0.5, "depth_factor": 8})
    values["intrinsics"][2, 0, 0] = 1000.0
    values["width"][4], values["height"][4] = 1, 1
    header = FileHeader.build(**values)
    again = unpack_header(pack_header(header))
    assert again == header
    assert again.quality == 3 and again.views[3].quality == 7.5
    assert again.intrinsics()[2, 0, 0] == 1000.0 and again.intrinsics()[3, 0, 0] == 2759.48
    assert (again.views[4].width, again.views[4].height) == (1, 1)
    assert again.parameters == {"near": 0.5, "depth_factor": 8.0}


def test_the_header_is_small() -> None:
    """28 bytes of pose a view, and little else: everything counts in the rate."""
    header = FileHeader.build(**scene(200))
    assert len(layout.pack_preamble_and_header(header)) < 200 * 34 + 200


def test_ancestors_come_root_first(header: FileHeader) -> None:
    assert header.ancestors(4) == (0, 1, 3)
    assert header.ancestors(5) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a", "b", "a", "c", "d", "e"]}, "view 2: the name 'a' is that of view 0"),
        ({"names": ["../a", "b", "c", "d", "e", "f"]}, "relative path inside"),
        ({"names": ["/a", "b", "c", "d", "e", "f"]}, "relative path inside"),
        ({"names": ["a\\b", "b", "c", "d", "e", "f"]}, "relative path inside"),
        ({"names": ["C:a", "b", "c", "d", "e", "f"]}, "relative path inside"),
        ({"names": ["a//b", "b", "c", "d", "e", "f"]}, "relative path inside"),
        ({"names": ["a\n", "b", "c", "d", "e", "f"]}, "printable"),
        ({"names": ["", "b", "c", "d", "e", "f"]}, "1..255 bytes"),
        ({"names": ["x" * 256, "b", "c", "d", "e", "f"]}, "1..255 bytes"),
        ({"names": ["\udc80", "b", "c", "d", "e", "f"]}, "UTF-8"),
        ({"parent": (-1, 0, 0, 4, 3, -1)}, "view 3: expected a reference that is coded before it, found 4"),
        ({"parent": (0, 0, 0, 1, 3, -1)}, "view 0"),
        ({"parent": (-1, 0, 0, 1, 3, 9)}, "view 5"),
        ({"parent": (-1, 0, 0, 1, 3, -2)}, "view 5"),
        ({"order": (0, 2, 1, 3, 4, 4)}, "each of 6 views once"),
        ({"order": (0, 2, 1, 3, 4)}, "each of 6 views once"),
        ({"width": np.full(VIEWS, 0)}, "sides"),
        ({"width": np.full(VIEWS, 70_000)}, "sides"),
        ({"width": np.full(VIEWS, 60_000), "height": np.full(VIEWS, 60_000)}, "pixels"),
        ({"quality": math.nan}, "quality"),
        ({"inverse_depth_scale": 0.0}, "inverse depth scale"),
        ({"weights_hash": b"short"}, "weights hash"),
        ({"preset": ""}, "preset"),
    ],
)
def test_scenes_that_the_format_does_not_hold_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SceneError, match=message):
        FileHeader.build(**scene(**changes))


def test_cameras_that_are_no_pinholes_are_refused() -> None:
    for edit in (
        lambda s: s["intrinsics"].__setitem__((1, 0, 1), 0.5),  # skew
        lambda s: s["intrinsics"].__setitem__((1, 0, 0), math.inf),
        lambda s: s["intrinsics"].__setitem__((1, 0, 0), -5.0),
        lambda s: s["world_to_camera"].__setitem__((1, 0, 3), math.nan),
        lambda s: s["world_to_camera"].__setitem__((1, 0, 3), 1e30),
        lambda s: s["world_to_camera"].__setitem__((1, slice(0, 3)), 2 * s["world_to_camera"][1, :3]),
        lambda s: s["world_to_camera"].__setitem__((1, 0), -s["world_to_camera"][1, 0]),  # mirrored
        lambda s: s["world_to_camera"].__setitem__((1, 3, 3), 2.0),
    ):
        values = scene()
        edit(values)
        with pytest.raises(SceneError):
            FileHeader.build(**values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("quaternion", (0.0, 0.0, 0.0, 0.0), "quaternion"),
        ("quaternion", (math.nan, 0.0, 0.0, 1.0), "camera: expected finite"),
        ("centre", (math.inf, 0.0, 0.0), "camera"),
        ("intrinsics", (math.nan, 1.0, 1.0, 1.0), "focal"),
        ("name", "../../etc/passwd", "relative path"),
        ("parent", 4, "coded before"),
        ("width", 0, "sides"),
        ("quality", 1e9, "quality"),
    ],
)
def test_a_hostile_header_is_refused_with_its_view(
    header: FileHeader, monkeypatch: pytest.MonkeyPatch, field: str, value: object, message: str
) -> None:
    """Packed without the writer's checks, as a hostile writer would."""
    views = list(header.views)
    views[3] = dataclasses.replace(views[3], **{field: value})
    with monkeypatch.context() as patch:
        patch.setattr(FileHeader, "validate", lambda self: None)
        body = pack_header(dataclasses.replace(header, views=tuple(views)))
    with pytest.raises(BitstreamError, match=f"view 3.*{message}"):
        unpack_header(body)


def test_a_cut_or_lengthened_header_body_names_the_field(header: FileHeader) -> None:
    body = pack_header(header)
    for size in range(len(body)):
        with pytest.raises(BitstreamError, match=r"header: .*expected"):
            unpack_header(body[:size])
    with pytest.raises(BitstreamError, match="its end"):
        unpack_header(body + b"\0")


# ---------------------------------------------------------------------------------------------------------------------
# whole files


def test_units_sections_and_sizes_read_back(path: Path, header: FileHeader) -> None:
    with Reader(path) as reader:
        assert reader.header == header
        assert reader.problems == [] and reader.verify() == [] and reader.damaged_views() == {}
        for view in range(VIEWS):
            unit = reader.unit(view)
            assert (unit.depth, unit.image) == parts(view)
            size = reader.sizes()[view]
            assert size is not None and (size.depth, size.image) == (len(unit.depth), len(unit.image))
        assert reader.sections() == ("META",)
        assert reader.section("META") == b'{"software": "test"}'
        assert reader.section("NONE") is None
        assert reader.file_size == path.stat().st_size
    overhead = path.stat().st_size - sum(len(depth) + len(image) for depth, image in map(parts, range(VIEWS)))
    assert overhead < 24 + len(pack_header(header)) + 16 + 6 * 26 + 40


def test_one_view_costs_the_reading_of_its_unit_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    original = Reader._read

    def counted(self: Reader, offset: int, size: int) -> bytes:
        read.append((offset, size))
        return original(self, offset, size)

    with Reader(path) as reader:
        monkeypatch.setattr(Reader, "_read", counted)
        depth, image = parts(4)
        assert reader.unit(4).image == image
        assert sum(size for _, size in read) == layout.UNIT_HEADER_BYTES + len(depth) + len(image)


def test_threads_share_a_reader(path: Path) -> None:
    wrong: list[int] = []
    with Reader(path) as reader:

        def work(seed: int) -> None:
            for view in np.random.default_rng(seed).integers(0, VIEWS, 200).tolist():
                if (reader.unit(view).depth, reader.unit(view).image) != parts(view):
                    wrong.append(view)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_empty_parts_and_a_single_view_are_fine(tmp_path: Path) -> None:
    header = FileHeader.build(**scene(1))
    with Writer(tmp_path / "one.lmvic", header) as writer:
        writer.add_unit(0, b"", b"")
    with Reader(tmp_path / "one.lmvic") as reader:
        assert reader.unit(0).depth == b"" and reader.verify() == []
    assert (tmp_path / "one.lmvic").stat().st_size < 250


def test_the_writer_takes_each_view_once(tmp_path: Path, header: FileHeader) -> None:
    writer = Writer(tmp_path / "a.lmvic", header)
    writer.add_unit(0, b"d", b"i")
    for view in (0, -1, VIEWS):
        with pytest.raises(BitstreamError, match="once"):
            writer.add_unit(view, b"", b"")
    writer.add_section("ABCD", b"x")
    for tag in ("ABCD", "abc", "ab/d", "äbcd"):
        with pytest.raises(BitstreamError, match="section"):
            writer.add_section(tag, b"x")
    assert writer.unit(0).image == b"i"
    with pytest.raises(LmvicError, match="view 1 and 4 more"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_part_larger_than_its_image_allows_is_refused(tmp_path: Path) -> None:
    header = FileHeader.build(**scene(1, width=[1], height=[1]))
    with Writer(tmp_path / "a.lmvic", header) as writer:
        with pytest.raises(BitstreamError, match="at most"):
            writer.add_unit(0, b"", bytes(limits.max_part_bytes(1) + 1))
        writer.add_unit(0, b"", b"")


def test_bitstream_needs_no_torch(path: Path) -> None:
    script = (
        "import sys; from lmvic_ns.bitstream.reader import Reader; import lmvic_ns.bitstream.rans;"
        f"assert Reader({str(path)!r}).verify() == []; assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

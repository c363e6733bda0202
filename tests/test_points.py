"""Sparse points in a file: exact to the bit, or compact, within a quarter of a pixel; safe to read whatever the bytes say."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scenes import ROOM, entries, lmvic, write_room, write_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from lmvic_ns.bitstream import layout
from lmvic_ns.bitstream.adaptive import AdaptiveDecoder, AdaptiveEncoder, Contexts
from lmvic_ns.bitstream.point_cloud import QuantizedPoints, decode_points, encode_points
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.errors import BitstreamError, SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.ply import read_points
from lmvic_ns.sparse_points import compact as compact_points
from lmvic_ns.sparse_points.compact import DISTANCE_TOLERANCE, PIXEL_TOLERANCE, pack_compact, unpack_compact
from lmvic_ns.sparse_points.grid import Grid, Pinholes, movements
from lmvic_ns.sparse_points.sections import colours_at
from lmvic_ns.workflows.decoding import decode_file
from lmvic_ns.workflows.encoding import encode_scene
from lmvic_ns.workflows.options import CodingOptions

FIELDS = ("layer", "u", "v", "w", "level")


def facing_views(views: int = 5, width: int = 160, height: int = 120, spread: float = 0.3) -> Pinholes:
    """Cameras side by side that look along z."""
    generator = np.random.default_rng(3)
    motions = np.tile(np.eye(4), (views, 1, 1))
    motions[:, :3, 3] = generator.normal(size=(views, 3)) * spread
    intrinsics = np.tile([[150.0, 0, width / 2], [0, 152.0, height / 2], [0, 0, 1]], (views, 1, 1))
    size = torch.tensor([height] * views), torch.tensor([width] * views)
    return Pinholes.to_be_stored(Cameras(torch.from_numpy(intrinsics), torch.from_numpy(motions), *size))


def surface(count: int = 3000, seed: int = 0) -> np.ndarray:
    """Points on a wavy wall, some far away, float32."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(-1, 1, (count, 3)) * [3, 2, 0] + [0, 0, 5]
    points[:, 2] += np.sin(points[:, 0] * 2) * 0.5
    points[: count // 20] *= generator.uniform(1, 50, (count // 20, 1))
    return points.astype(np.float32)


def grey(view: int, pixels: np.ndarray) -> np.ndarray:
    return np.full((len(pixels), 3), 128, dtype=np.uint8)


def matched(decoded: np.ndarray, original: np.ndarray, cameras: Pinholes) -> tuple[np.ndarray, np.ndarray]:
    """Movements of the original points to the nearest decoded ones."""
    nearest = np.linalg.norm(decoded[None].astype(float) - original[:, None], axis=2).argmin(axis=1)
    assert len(set(nearest)) > 0.99 * len(original)
    return movements(cameras, original.astype(float), decoded[nearest].astype(float))


# --- coders of whole numbers ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 300))
def test_adaptive_symbols_come_back(seed: int, width: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    symbols = generator.integers(0, 1 << width, count) & generator.integers(0, 1 << width, count)
    bases = generator.choice([0, 1 << width, -(1 << 20)], (count, width))
    encoder = AdaptiveEncoder(Contexts(2 << width))
    for part in (slice(0, count // 2), slice(count // 2, None)):
        encoder.code(symbols[part], bases[part])
    data = encoder.finish()
    decoder = AdaptiveDecoder(data, Contexts(2 << width))
    found = [decoder.code(None, bases[part]) for part in (slice(0, count // 2), slice(count // 2, None))]
    decoder.finish()
    assert np.array_equal(np.concatenate(found), symbols)


def test_adaptive_contexts_learn() -> None:
    bits = (np.random.default_rng(0).random(20_000) < 0.05).astype(np.int64)
    encoder = AdaptiveEncoder(Contexts(2))
    encoder.code(bits, np.zeros((len(bits), 1), dtype=np.int64))
    assert len(encoder.finish()) * 8 / len(bits) < 0.2864 * 1.03  # the entropy of one in twenty


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 4), st.integers(1, 20))
def test_any_set_of_cells_comes_back(seed: int, count: int, layers: int, tree_levels: int) -> None:
    generator = np.random.default_rng(seed)
    layer = np.sort(np.concatenate([np.arange(layers), generator.integers(0, layers, count)]))
    level = generator.choice([0, 0, 0, 1, 2, 15], len(layer))
    u, v = (generator.integers(0, 1 << tree_levels, len(layer)) for _ in range(2))
    w = generator.integers(-(1 << 23), 1 << 23, len(layer)) >> generator.integers(0, 23)
    fine = [(x << level) + generator.integers(0, 1 << level) for x in (u, v, w)]
    points = QuantizedPoints(layer, *fine, level)  # type: ignore[call-arg]
    points = points.take(np.concatenate([np.arange(len(points)), [0, 0]])).canonical()  # one of them three times
    data = encode_points(points, tree_levels)
    back = decode_points(data, len(points), layers, tree_levels, name="points")
    for name in FIELDS:
        assert np.array_equal(getattr(back, name), getattr(points, name)), name


def test_without_numba_the_bytes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmvic_ns.bitstream import adaptive

    cameras, points = facing_views(), surface(200)
    data = pack_compact(points, None, cameras, grey)
    for name in ("_model", "_push", "_pop"):
        monkeypatch.setattr(adaptive, name, getattr(adaptive, name).python)
    assert pack_compact(points, None, cameras, grey) == data
    assert len(unpack_compact(data, cameras).positions) == struct.unpack_from("<I", data)[0] > 150


# --- accuracy ---------------------------------------------------------------------------------------------------------


def test_compact_points_stay_within_a_quarter_of_a_pixel() -> None:
    cameras, points = facing_views(), surface()
    found = unpack_compact(pack_compact(points, None, cameras, grey), cameras)
    shown = np.any([cameras.project(view, points.astype(float))[2] for view in range(len(cameras))], axis=0)
    assert 0.5 < shown.mean() < 1 and len(found.positions) == shown.sum()  # points that no view shows are left out
    _, relative = matched(found.positions, points[shown], cameras)
    assert relative.max() <= DISTANCE_TOLERANCE
    # the accuracy in pixels, of each point for itself: in its own cell, of all that the encoder may choose
    inside = [cameras.project(int(v), p[None].astype(float))[2][0] for v, p in zip(found.view, found.positions, strict=True)]
    assert np.mean(inside) > 0.99


def test_every_single_point_is_as_near_as_promised() -> None:
    """One point a file, so that which is which is beyond doubt."""
    cameras = facing_views(spread=1.5)
    for number, point in enumerate(surface(60, seed=5)):
        if not any(cameras.project(view, point[None].astype(float))[2][0] for view in range(len(cameras))):
            continue
        found = unpack_compact(pack_compact(point[None], None, cameras, grey), cameras).positions
        pixels, relative = movements(cameras, point[None].astype(float), found.astype(float))
        assert pixels[0] <= PIXEL_TOLERANCE and relative[0] <= DISTANCE_TOLERANCE, number


def test_compact_points_cost_what_they_are_worth() -> None:
    cameras, points = facing_views(), surface(4000)
    data = pack_compact(points, None, cameras, grey)
    assert len(data) < 2.3 * struct.unpack_from("<I", data)[0]


def test_widths_of_cells_are_chosen_by_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tolerances that are all alike take narrower cells than those that are spread: each is as cheap as with the better one."""
    cameras, smaller = facing_views(), []
    for points in (surface(2000), surface(2000) * np.linspace(0.5, 3.0, 2000)[:, None]):
        chosen = len(pack_compact(points, None, cameras, grey))
        fixed = []
        for width in (1.6, 2.2):
            with monkeypatch.context() as patch:
                patch.setattr(compact_points, "CELL_WIDTHS", (width,))
                fixed.append(len(pack_compact(points, None, cameras, grey)))
        assert chosen <= 1.005 * min(fixed)
        smaller.append(max(fixed) / chosen)
    assert max(smaller) > 1.01


def test_identical_points_all_come_back() -> None:
    cameras, points = facing_views(), surface(50)
    points = points[np.any([cameras.project(view, points.astype(float))[2] for view in range(len(cameras))], axis=0)]
    found = unpack_compact(pack_compact(np.repeat(points, 3, axis=0), None, cameras, grey), cameras)
    assert len(found.positions) == 3 * len(points)
    assert len(np.unique(found.positions, axis=0)) == len(points)


def test_a_camera_on_a_point_does_no_harm() -> None:
    cameras = facing_views()
    points = np.concatenate([surface(100), cameras.positions().astype(np.float32)])
    assert len(unpack_compact(pack_compact(points, None, cameras, grey), cameras).positions) >= 50


def test_nothing_in_view_gives_no_section() -> None:
    assert pack_compact(surface(10) * [1, 1, -1], None, facing_views(), grey) == b""


def test_more_points_than_pixels_allow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_points, "POINTS_A_PIXEL", 0)
    with pytest.raises(SceneError, match="--points exact"):
        pack_compact(surface(10), None, facing_views(), grey)


def test_the_view_with_the_right_colour_is_preferred() -> None:
    """One picture alone shows the points; in the others something hides them."""
    cameras, points = facing_views(spread=0.05), surface(300)
    colours = np.full((300, 3), 200, dtype=np.uint8)
    found = unpack_compact(
        pack_compact(points, colours, cameras, lambda v, p: np.full((len(p), 3), 200 if v == 3 else 20, np.uint8)), cameras
    )
    assert (found.view == 3).mean() > 0.8


def test_the_middle_of_a_cell_is_nearest() -> None:
    """Cells of odd depth are shifted; quantize finds the nearest of both kinds, and its inverse is exact there."""
    cameras = facing_views(1)
    grid = Grid(np.array([0]), np.array([700]), np.array([900]))
    generator = np.random.default_rng(1)
    cells = QuantizedPoints(*(generator.integers(5, 90, 200) * k for k in (0, 1, 1, 20)), np.zeros(200, np.int64))  # type: ignore[call-arg]
    positions = grid.positions(cells, cameras)
    pixels, depth, _ = cameras.project(0, positions)
    again = grid.quantize(np.zeros(200, dtype=np.int64), pixels, depth * (1 + 1e-9), 0, 0)
    for name in FIELDS:
        assert np.array_equal(getattr(again, name), getattr(cells, name)), name


def test_colours_between_pixels_are_linear() -> None:
    image = torch.zeros(3, 2, 3)
    image[0] = torch.tensor([[0.0, 0.2, 0.4], [0.4, 0.6, 0.8]])
    found = colours_at(image, np.array([[0.5, 0.5], [1.0, 0.5], [1.5, 1.0], [-9.0, 99.0]]))
    assert found[:, 0].tolist() == [0, 26, 102, 102] and not found[:, 1:].any()


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("points")
    room, weights = write_room(folder / "room"), str(write_weights(folder / "small.safetensors"))
    scene, codec = MultiViewScene.from_dataset(room), load_codec(weights)
    files = {}
    for storage in ("compact", "exact"):
        files[storage] = folder / f"{storage}.lmvic"
        encode_scene(scene, files[storage], CodingOptions(quality=40, effort="fast", points=storage, device="cpu"), codec)
    return room, weights, files


def test_exact_points_are_the_very_same(made, tmp_path: Path) -> None:
    room, weights, files = made
    decode_file(files["exact"], tmp_path / "out", weights=weights, device="cpu")
    positions, colours = read_points(tmp_path / "out" / "sparse_pc.ply")
    expected, expected_colours = read_points(room / "sparse_pc.ply")
    assert colours is not None and expected_colours is not None
    assert positions.tobytes() == expected.tobytes() and np.array_equal(colours, expected_colours)


def test_compact_points_come_back_with_colours_of_the_pictures(made, tmp_path: Path) -> None:
    room, weights, files = made
    with Reader(files["compact"]) as reader:
        assert reader.sections() == ("PNTC",) and reader.section_bytes("PNTC") < 4 * ROOM.seed_points
        cameras = Pinholes.of_file(reader.header)
    written = decode_file(files["compact"], tmp_path / "out", weights=weights, device="cpu")
    positions, colours = read_points(tmp_path / "out" / "sparse_pc.ply")
    expected, _ = read_points(room / "sparse_pc.ply")
    shown = np.any([cameras.project(view, expected.astype(float))[2] for view in range(ROOM.views)], axis=0)
    assert written.points == len(positions) == shown.sum() and written.lost == {}
    _, relative = matched(positions, expected[shown], cameras)
    assert relative.max() <= DISTANCE_TOLERANCE
    # each colour is that of a decoded picture at the point
    back = MultiViewScene.from_dataset(tmp_path / "out")
    off = []
    for view in range(ROOM.views):
        pixels, _, inside = cameras.project(view, positions.astype(float))
        seen = colours_at(back.image(view), pixels).astype(int)
        off.append(np.where(inside, np.abs(seen - colours).max(axis=1), 255))
    assert np.min(off, axis=0).max() <= 2


def test_some_views_bring_the_points_that_they_show(made, tmp_path: Path) -> None:
    _, weights, files = made
    with Reader(files["compact"]) as reader:
        cameras, name = Pinholes.of_file(reader.header), reader.header.views[1].name
        points = unpack_compact(reader.section("PNTC") or b"", cameras)
    written = decode_file(files["compact"], tmp_path / "out", weights=weights, device="cpu", views=(name,))
    inside = cameras.project(1, points.positions.astype(float))[2] | (points.view == 1)
    assert 0 < written.points == inside.sum() <= len(points.positions)


def test_damaged_points_cost_themselves_alone(made, tmp_path: Path, monkeypatch, capsys) -> None:
    _, weights, files = made
    data = bytearray(files["compact"].read_bytes())
    data[data.index(layout.SECTION_SYNC) + 40] ^= 1
    (tmp_path / "damaged.lmvic").write_bytes(data)
    arguments = ("decode", tmp_path / "damaged.lmvic", tmp_path / "out", "--weights", weights, "--device", "cpu")
    assert lmvic(monkeypatch, *arguments) == 1
    assert "section PNTC: damaged" in " ".join(capsys.readouterr().err.split())
    assert len(entries(tmp_path / "out" / "images")) == ROOM.views and not (tmp_path / "out" / "sparse_pc.ply").exists()


# --- whatever the bytes say -------------------------------------------------------------------------------------------

CAMERAS = facing_views()
DATA = pack_compact(surface(400), None, CAMERAS, grey)


def reads_or_refuses(data: bytes) -> None:
    """A result, or one line that names the section; soon, and in little memory."""
    began = time.process_time()
    tracemalloc.start()
    try:
        found = unpack_compact(data, CAMERAS)
        assert np.isfinite(found.positions).all()
    except BitstreamError as error:
        assert "section PNTC" in str(error) and "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100e6 and time.process_time() - began < 5


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 255)), min_size=1, max_size=8))
def test_changed_bytes_end_well(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DATA)
    for place, value in changes:
        data[place] ^= value
    reads_or_refuses(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(DATA)), st.binary(max_size=50), st.integers(0, len(DATA)))
def test_cuts_and_insertions_end_well(begin: int, middle: bytes, end: int) -> None:
    reads_or_refuses(DATA[:begin] + middle + DATA[end:])


def test_a_changed_quadtree_is_noticed_without_a_checksum() -> None:
    """Later bits of the stream are raw: those the section's checksum alone protects."""
    noticed, begin = 0, 6 + 6 * struct.unpack_from("<H", DATA, 4)[0]
    for place in range(begin, begin + 200):
        data = DATA[:place] + bytes([DATA[place] ^ 16]) + DATA[place + 1 :]
        try:
            unpack_compact(data, CAMERAS)
        except BitstreamError:
            noticed += 1
    assert noticed > 190


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "at least 6 bytes"),
        (struct.pack("<IH", 0, 0), "layers"),
        (struct.pack("<IH", 5, 6) + bytes(99), "layers"),
        (struct.pack("<IH", 9, 2) + bytes(9), "layers"),
        (struct.pack("<I", 0xFFFFFFFF) + DATA[4:], "at most"),
        (struct.pack("<I", 401) + DATA[4:], "expected 401 points"),
        (struct.pack("<IH3H", 1, 1, 5, 9, 9) + b"\1\1", "one of 5 views"),
        (struct.pack("<IH3H", 1, 1, 0, 0, 9) + b"\1\1", "some width"),
        (DATA + b"\0\0", "damaged"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, words: str) -> None:
    with pytest.raises(BitstreamError, match=f"section PNTC: .*{words}"):
        unpack_compact(data, CAMERAS)

"""Scenes into files and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_scenes import plane_scene, psnr, small_codec

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec import EncodeOptions, default_tree, load_weights, weights_names
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.planning import depth_first, quality_offsets
from lmvic_ns.codec.weights import deserialize, serialize
from lmvic_ns.errors import BitstreamError, LmvicError, SceneError, WeightsError
from lmvic_ns.tree.ordering import ReferenceTree, independent_views


def test_a_scene_comes_back(tmp_path) -> None:
    codec, scene = small_codec(), plane_scene([(40, 60), (40, 60), (48, 33)])
    records = codec.encode(scene, tmp_path / "a.lmvic", quality=63)
    found = {view.index: view for view in codec.decode(tmp_path / "a.lmvic")}
    assert sorted(found) == [0, 1, 2] and not list(tmp_path.glob("*.partial"))
    for record in records:
        view = found[record.index]
        assert view.name == scene.names[record.index] and view.image.shape == scene.image(record.index).shape
        eight_bit = (view.image * 255).round() / 255
        assert psnr(eight_bit, (scene.image(record.index) * 255).round() / 255) == pytest.approx(record.psnr, abs=1e-3)
        assert torch.allclose(view.camera.intrinsics, scene.cameras[record.index].intrinsics)
        assert torch.allclose(view.camera.world_to_camera, scene.cameras[record.index].world_to_camera, atol=1e-5)


def test_same_scene_same_file(tmp_path) -> None:
    scene = plane_scene([(40, 60)] * 2)
    small_codec().encode(scene, tmp_path / "a.lmvic", quality=20)
    small_codec().encode(scene, tmp_path / "b.lmvic", quality=20)
    assert (tmp_path / "a.lmvic").read_bytes() == (tmp_path / "b.lmvic").read_bytes()


def test_one_view_reads_only_its_ancestors(tmp_path, monkeypatch) -> None:
    codec, scene = small_codec(), plane_scene([(24, 24)] * 5)
    tree = ReferenceTree.from_parents((0, 1, 2, 3, 4), (-1, 0, 0, 2, 1))
    codec.encode(scene, tmp_path / "a.lmvic", quality=20, tree=tree)
    everything = {view.index: view.image for view in codec.decode(tmp_path / "a.lmvic")}
    read: list[int] = []
    plain = Reader.unit
    monkeypatch.setattr(Reader, "unit", lambda self, view: read.append(view) or plain(self, view))
    (only,) = codec.decode(tmp_path / "a.lmvic", views=["view_03.png"])
    assert read == [0, 2, 3] and torch.equal(only.image, everything[3])


def test_branches_decode_in_parallel(tmp_path) -> None:
    codec, scene = small_codec(), plane_scene([(24, 24)] * 6)
    tree = ReferenceTree.from_parents(range(6), (-1, 0, 0, 0, 1, 2))
    codec.encode(scene, tmp_path / "a.lmvic", quality=20, tree=tree)
    one = {v.index: v.image for v in codec.decode(tmp_path / "a.lmvic")}
    two = {v.index: v.image for v in codec.decode(tmp_path / "a.lmvic", workers=2)}
    assert one.keys() == two.keys() and all((one[k] - two[k]).abs().max() < 1e-5 for k in one)


def test_an_interrupted_encode_goes_on(tmp_path) -> None:
    codec, scene = small_codec(), plane_scene([(24, 24)] * 4)
    whole = tmp_path / "whole.lmvic"
    codec.encode(scene, whole, quality=20)
    coded: list[int] = []

    def stop_after_two(view) -> None:
        coded.append(view.index)
        if len(coded) == 2:
            raise KeyboardInterrupt

    options = EncodeOptions(quality=20, resume=True)
    with pytest.raises(KeyboardInterrupt):
        codec.encode(scene, tmp_path / "a.lmvic", options=options, on_view=stop_after_two)
    assert not (tmp_path / "a.lmvic").exists() and (tmp_path / "a.lmvic.partial").exists()
    codec.encode(scene, tmp_path / "a.lmvic", options=options)
    assert (tmp_path / "a.lmvic").read_bytes() == whole.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        coded.clear()
        codec.encode(scene, tmp_path / "b.lmvic", quality=20, on_view=stop_after_two)
    assert not list(tmp_path.glob("b.lmvic*"))


def test_damage_costs_its_branch_alone(tmp_path) -> None:
    codec, scene = small_codec(), plane_scene([(24, 24)] * 5)
    tree = ReferenceTree.from_parents(range(5), (-1, 0, 0, 1, 2))
    path = tmp_path / "a.lmvic"
    codec.encode(scene, path, quality=20, tree=tree)
    whole = {view.index: view.image for view in codec.decode(path)}
    with Reader(path) as reader:
        block = reader._units[1]
    data = bytearray(path.read_bytes())
    data[block.offset + block.size - 3] ^= 0x55
    path.write_bytes(data)
    problems: dict[int, str] = {}
    found = {view.index: view.image for view in codec.decode(path, problems=problems)}
    assert sorted(found) == [0, 2, 4] and sorted(problems) == [1, 3] and all("view 1" in text for text in problems.values())
    assert all(torch.equal(found[k], whole[k]) for k in found)
    with pytest.raises(BitstreamError, match="view 1"):
        list(codec.decode(path))


def test_a_single_view_and_views_that_share_nothing(tmp_path) -> None:
    codec = small_codec()
    for scene in (plane_scene([(30, 40)]), plane_scene([(30, 40)] * 3, look_away=(1,))):
        codec.encode(scene, tmp_path / "a.lmvic", quality=63)
        assert len(list(codec.decode(tmp_path / "a.lmvic"))) == len(scene)


def test_a_scene_without_depth_has_no_references(tmp_path) -> None:
    codec, scene = small_codec(), plane_scene([(30, 40)] * 2)
    bare = type(scene)(scene.names, scene.cameras, scene.image)
    assert default_tree(bare) == independent_views(2)
    codec.encode(bare, tmp_path / "a.lmvic", quality=30)
    assert all(view.inverse_depth is None for view in codec.decode(tmp_path / "a.lmvic"))
    with pytest.raises(SceneError, match="no depth"):
        codec.encode(bare, tmp_path / "b.lmvic", tree=ReferenceTree.from_parents((0, 1), (-1, 0)))


def test_coding_order_keeps_only_ancestors() -> None:
    tree = ReferenceTree.from_parents((0, 1, 2, 3, 4), (-1, 0, 0, 1, 2))
    assert depth_first(tree) == (0, 1, 3, 2, 4)


def test_mistakes_are_named(tmp_path) -> None:
    codec, scene = small_codec(), plane_scene([(30, 40)] * 2)
    with pytest.raises(SceneError, match=r"quality must lie in 0\.\.63"):
        codec.encode(scene, tmp_path / "a.lmvic", quality=64)
    with pytest.raises(SceneError, match="3 views, the scene 2"):
        codec.encode(scene, tmp_path / "a.lmvic", tree=independent_views(3))
    codec.encode(scene, tmp_path / "a.lmvic", quality=10)
    with pytest.raises(WeightsError, match="made with weights 'small'"):
        list(small_codec(seed=1).decode(tmp_path / "a.lmvic"))
    with pytest.raises(LmvicError, match=r"no view .x\.png."):
        list(codec.decode(tmp_path / "a.lmvic", views=["x.png"]))
    with pytest.raises(LmvicError, match="no view 7"):
        list(codec.decode(tmp_path / "a.lmvic", views=[7]))


def test_weights_files(tmp_path) -> None:
    codec = small_codec()
    data = serialize(codec.model, {"name": "x"})
    assert data == serialize(codec.model, {"name": "x"}) and deserialize(data, "x").hash != codec.weights.hash
    with pytest.raises(WeightsError, match="not a safetensors"):
        deserialize(data[:100], "short")
    with pytest.raises(WeightsError, match="no weights 'nothing'"):
        load_weights("nothing")
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 50)
    with pytest.raises(WeightsError, match="junk"):
        load_weights(tmp_path / "junk.safetensors")
    for name in weights_names():
        assert load_weights(name).name == name


def test_views_that_others_refer_to_are_coded_better(tmp_path) -> None:
    tree = ReferenceTree.from_parents((0, 1, 2, 3), (-1, 0, 0, 2))
    # 4, 1, 2, 1 views depend on each, itself included: 6, 0, 3, 0 levels, 2.25 on average
    assert quality_offsets(tree) == quality_offsets(tree, 34) == (4, -2, 1, -2)
    assert quality_offsets(tree, 63) == (1, -1, 0, -1)  # at high quality less is inherited
    assert quality_offsets(independent_views(3)) == (0, 0, 0)
    rng = np.random.default_rng(0)
    parents = [-1, *(int(rng.integers(0, view)) for view in range(1, 60))]
    large = quality_offsets(ReferenceTree.from_parents(range(60), parents))
    assert abs(sum(large)) <= 30 and large[0] == max(large)
    long = quality_offsets(ReferenceTree.from_parents(range(200), range(-1, 199)))  # a chain
    assert long[0] == max(long) <= 10 and long[-1] == min(long) == -4
    assert all(large[view] <= large[parent] for view, parent in enumerate(parents) if parent >= 0)

    scene, codec = plane_scene([(24, 24)] * 4), small_codec()
    for quality, equal, expected in (
        (30, False, (34, 28, 31, 28)),
        (30, True, (30, 30, 30, 30)),
        (62, False, (63, 61, 62, 61)),
        (0, False, (4, 0, 1, 0)),
    ):
        path = tmp_path / f"{quality}-{equal}.lmvic"
        options = EncodeOptions(quality, equal_quality=equal, effort=Effort())
        records = {view.index: view.psnr for view in codec.encode(scene, path, tree=tree, options=options)}
        with Reader(path) as reader:
            assert reader.header.quality == quality
            assert tuple(view.quality for view in reader.header.views) == expected
        for view in codec.decode(path):
            assert psnr((view.image * 255).round() / 255, scene.image(view.index)) == pytest.approx(
                records[view.index], abs=0.05
            )

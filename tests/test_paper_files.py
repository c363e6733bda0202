"""The paper preset in `.lmvic` files, and its weights files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.errors import BitstreamError, WeightsError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.paper.config import PaperConfig
from lmvic_ns.paper.model import PaperCodec
from lmvic_ns.paper.weights import deserialize, serialize
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.ordering import ReferenceTree

SIZES = [(48, 70), (64, 64), (33, 50)]


@pytest.fixture(scope="module")
def weights_file() -> bytes:
    torch.manual_seed(6)
    codec = PaperCodec(PaperConfig(n=8, m=12, alignment=True)).eval()
    with torch.no_grad():
        for part in (codec.image, codec.depth):
            part.encoder.last.weight.mul_(20.0)
        dict(codec.image.decoder.named_parameters())["last.1.bias"].add_(0.5)
        dict(codec.depth.decoder.named_parameters())["last.bias"].add_(1.0)
    codec.update()
    return serialize(codec, {"name": "paper-test"})


def make_scene(with_depth: bool = True) -> MultiViewScene:
    generator = torch.Generator().manual_seed(7)
    images = [torch.rand(3, *size, generator=generator) for size in SIZES]
    depths = [0.02 * (1.0 + torch.rand(*size, generator=generator)) for size in SIZES]
    intrinsics = torch.tensor([[[50.0, 0, w / 2], [0, 50, h / 2], [0, 0, 1]] for h, w in SIZES])
    poses = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 5.0, 10.0])
    cameras = Cameras(intrinsics, poses, torch.tensor([s[0] for s in SIZES]), torch.tensor([s[1] for s in SIZES]))
    return MultiViewScene(["a.png", "b.png", "c.png"], cameras, images, depths if with_depth else None)


def test_a_scene_goes_into_a_file_and_comes_back(weights_file: bytes, tmp_path: Path) -> None:
    scene, path = make_scene(), tmp_path / "scene.lmvic"
    chain = ReferenceTree.from_parents((0, 1, 2), [-1, 0, 1])
    records = MultiViewCodec(deserialize(weights_file, "test")).encode(scene, path, tree=chain)
    assert sum(r.depth_bytes + r.image_bytes for r in records) < path.stat().st_size
    other = MultiViewCodec(deserialize(weights_file, "test"))  # nothing shared with the encoder but the bytes
    decoded = list(other.decode(path))
    assert [view.name for view in decoded] == scene.names
    for record, view in zip(records, decoded, strict=True):
        original = (scene.image(view.index) * 255).round()
        error = ((view.image * 255).round() - original).square().mean().item()
        # the encoder's own reconstruction had this error: the loop is closed
        assert 10 * math.log10(255**2 / error) == pytest.approx(record.psnr, abs=1e-6)
        assert view.inverse_depth is not None and view.inverse_depth.shape == SIZES[view.index]
    last = next(iter(other.decode(path, views=["c.png"])))
    assert torch.equal(last.image, decoded[2].image)


def test_photographs_without_depth(weights_file: bytes, tmp_path: Path) -> None:
    codec, path = MultiViewCodec(deserialize(weights_file, "test")), tmp_path / "photos.lmvic"
    records = codec.encode(make_scene(with_depth=False), path)
    decoded = list(codec.decode(path))
    assert [r.depth_bytes for r in records] == [0, 0, 0]
    assert all(view.inverse_depth is None for view in decoded)
    assert [tuple(view.image.shape[1:]) for view in decoded] == SIZES


def test_a_reference_needs_depth(weights_file: bytes) -> None:
    model = deserialize(weights_file, "test").model
    scene = make_scene()
    view = scene.image(0)[None], scene.inverse_depth(0)[None], scene.cameras[0]
    _, image_part, state = model.compress(*view, None, 0)
    with pytest.raises(ValueError, match="without depth"):
        model.compress(view[0], None, view[2], state, 0)
    with pytest.raises(BitstreamError, match="view 7: depth part"):
        model.decompress(b"", image_part, SIZES[0], view[2], state, 0, name="view 7")


def test_weights_files_restore_config_and_tables(weights_file: bytes) -> None:
    weights = deserialize(weights_file, "elsewhere")
    assert weights.name == "paper-test" and weights.metadata["preset"] == "paper" and len(weights.hash) == 16
    codec = weights.model.codec
    assert isinstance(codec, PaperCodec) and codec.config == PaperConfig(n=8, m=12)
    assert serialize(codec, {"name": "paper-test"}) == weights_file


def test_damaged_weights_are_refused(weights_file: bytes) -> None:
    with pytest.raises(WeightsError, match="safetensors"):
        deserialize(weights_file[:-10], "cut")
    with pytest.raises(WeightsError, match="format"):
        deserialize(weights_file.replace(b"lmvic-paper-weights-1", b"lmvic-other-weights-1"), "other")
    with pytest.raises(WeightsError, match="do not fit"):
        deserialize(weights_file.replace(b'\\\\\\"m\\\\\\": 12', b'\\\\\\"m\\\\\\": 24'), "resized")
    with pytest.raises(WeightsError, match="update"):
        serialize(PaperCodec(PaperConfig(n=8, m=12)))

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns._util.metrics import psnr
from lmvic_ns.evaluation import aligners
from lmvic_ns.evaluation.alignment import align_scene, consecutive_pairs, write_alignment, write_pair_picture
from lmvic_ns.evaluation.patch_match import patch_match
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene

HEIGHT, WIDTH = 176, 208


def texture(height: int, width: int, seed: int = 3) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = np.sum([cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1.5, 4.0, 12.0)], axis=0)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def shifted_pair(dx: int = 9) -> tuple[np.ndarray, np.ndarray]:
    wide = texture(HEIGHT, WIDTH + dx)
    return wide[:, dx:], wide[:, :WIDTH]  # target, reference: the target lies dx pixels to the left in the reference


def plane_scene(dx: int = 8) -> MultiViewScene:
    """Two views of a fronto-parallel plane at depth 2, a stereo pair with a disparity of dx pixels."""
    target, reference = shifted_pair(dx)
    intrinsics = torch.tensor([[200.0, 0, WIDTH / 2], [0, 200.0, HEIGHT / 2], [0, 0, 1]]).double().expand(2, 3, 3)
    poses = torch.eye(4).double().repeat(2, 1, 1)
    poses[1, 0, 3] = dx * 2.0 / 200.0
    size = torch.tensor([HEIGHT, HEIGHT]), torch.tensor([WIDTH, WIDTH])
    images = [torch.from_numpy(p.copy()).permute(2, 0, 1).float() / 255 for p in (target, reference)]
    return MultiViewScene(["t", "r"], Cameras(intrinsics, poses, *size), images, [torch.full((HEIGHT, WIDTH), 0.5)] * 2)


def test_patch_match_finds_a_shift():
    target, reference = shifted_pair(32)
    aligned = patch_match(target, reference)
    assert psnr(target[:, :-48], aligned[:, :-48]) > 60  # whole blocks are found exactly
    assert psnr(target, reference) < 30
    assert np.array_equal(aligned, patch_match(target, reference))


def test_patch_match_takes_sizes_that_blocks_do_not_divide():
    target = texture(50, 61)
    assert np.array_equal(patch_match(target, target), target)
    with pytest.raises(ValueError, match="at least 16"):
        patch_match(target[:15], target)


@pytest.mark.parametrize("method", [aligners.homography, aligners.dis_flow])
def test_homography_and_flow_undo_a_shift(method):
    target, reference = shifted_pair()
    inner = (slice(8, -8), slice(8, -24))
    assert psnr(target[inner], method(target, reference)[inner]) > psnr(target[inner], reference[inner]) + 10


def test_homography_undoes_a_rotation():
    cv2 = pytest.importorskip("cv2")
    target = texture(240, 240)
    matrix = cv2.getRotationMatrix2D((120, 120), 12, 1.05)
    reference = cv2.warpAffine(target, matrix, (240, 240))
    inner = (slice(60, -60), slice(60, -60))
    assert psnr(target[inner], aligners.homography(target, reference)[inner]) > 33


def test_without_features_the_homography_is_the_identity():
    flat = np.full((100, 100, 3), 90, np.uint8)
    assert np.array_equal(aligners.homography(flat, flat), flat)


def test_depth_alignment_is_exact_on_a_plane_and_masks_what_the_reference_does_not_show():
    scene = plane_scene(dx=8)
    aligned, mask = aligners.DepthAlignment(scene)(0, 1)
    target = to_8_bit(scene.image(0))
    assert mask[:, : WIDTH - 10].all()
    assert not mask[:, WIDTH - 6 :].any()
    assert psnr(target, aligned, mask) > 45
    assert psnr(target, aligned) < psnr(target, aligned, mask)


def test_raft_without_weights_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(aligners.MissingAlignerError, match="raft_large"):
        aligners.Raft()


def test_table_and_pictures_of_a_scene(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    scene = plane_scene(dx=9)
    missing: dict[str, str] = {}
    pictures = [to_8_bit(scene.image(i)) for i in range(2)]
    pairs = consecutive_pairs([1, 0])
    assert pairs == [(0, 1)]
    aligned = list(align_scene(pictures, scene.names, pairs, {"plane": scene}, mask_from="plane", missing=missing))
    by_method = {result.method: result for result in aligned[0].results}
    assert "RAFT" in missing and "RAFT" not in by_method
    assert by_method["plane depth"].masked_psnr > by_method["no alignment"].masked_psnr + 10
    assert all(0.9 < result.mask_share < 1 for result in by_method.values())
    written = write_alignment(aligned[0].results, missing, tmp_path, "plane", "lmvic eval alignment plane", "plane")
    text = written[1].read_text()
    assert "| plane depth |" in text and "not measured: RAFT" in text and "lmvic eval alignment plane" in text
    write_pair_picture(aligned[0], tmp_path / "pair.png")
    assert (tmp_path / "pair.png").stat().st_size > 5000


def test_command_takes_depth_of_several_kinds(tmp_path, monkeypatch):
    from lmvic_ns.cli.main import run
    from lmvic_ns.errors import LmvicError

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    scene = plane_scene(dx=9)
    scene.write_dataset(tmp_path / "plane")
    wrong = torch.full((HEIGHT, WIDTH), 0.25)
    scene.with_inverse_depth([wrong, wrong]).write_dataset(tmp_path / "wrong")
    arguments = ["eval", "alignment", str(tmp_path / "plane"), "--output", str(tmp_path / "out")]
    assert run([*arguments, "--depth", f"wrong={tmp_path / 'wrong'}"]) == 0
    table = (tmp_path / "out" / "alignment-plane.csv").read_text().splitlines()
    rows = {line.split(",")[0]: float(line.split(",")[5]) for line in table[2:]}
    assert rows["scene depth"] > rows["wrong depth"] + 10
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 1
    with pytest.raises(LmvicError, match="there is no depth of the kind 'median'"):
        run([*arguments, "--mask", "median"])
    with pytest.raises(LmvicError, match="KIND=FOLDER"):
        run([*arguments, "--depth", "median"])

"""Stage `scenes`: chains whose crops follow the geometry, loss (9), depth from SfM points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_standin import StandInCodec, lambda_of_level

from lmvic_ns.codec.presets import build_model
from lmvic_ns.depth_sources.sfm import (
    find_scenes,
    read_ply_points,
    sfm_inverse_depth,
    with_sfm_depth,
    write_depth_cache,
)
from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask
from lmvic_ns.geometry.warp import warp
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.training import TrainingError
from lmvic_ns.training.data import LevelConfig, PhotoBatch, StepSampler
from lmvic_ns.training.objectives import DEPTH_BLOCKS, ChainObjective, LossConfig, block_means
from lmvic_ns.training.pack import Pack, PackConfig, write_pack
from lmvic_ns.training.photos import PhotoSet
from lmvic_ns.training.scenes import (
    ChainConfig,
    MixedDataset,
    SceneChains,
    collate_chains,
    follow_window,
    load_scene,
    normalised_scene,
    validation_chains,
)
from lmvic_ns.training.validation import rd_chains, score

HEIGHT, WIDTH, FOCAL = 120, 160, 140.0
DISTANCE = 5.0


def plane_scene(views: int = 5) -> MultiViewScene:
    """Cameras that move and turn a little in front of a textured wall at z = 5."""
    random = np.random.default_rng(0)
    wall = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((800, 600), Image.Resampling.BICUBIC)
    texture = torch.from_numpy(np.asarray(wall).copy()).permute(2, 0, 1).float() / 255
    k = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    transforms, images, depths = [], [], []
    for view in range(views):
        angle, offset = 0.02 * view, 0.25 * view - 0.5
        rotation = torch.tensor(
            [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]], dtype=torch.float64
        )
        center = torch.tensor([offset, 0.05 * view, 0.0], dtype=torch.float64)
        transform = torch.eye(4, dtype=torch.float64)
        transform[:3, :3], transform[:3, 3] = rotation, -rotation @ center
        v, u = torch.meshgrid(
            torch.arange(HEIGHT, dtype=torch.float64) + 0.5, torch.arange(WIDTH, dtype=torch.float64) + 0.5, indexing="ij"
        )
        ray = torch.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, torch.ones_like(u)], -1)
        depth = DISTANCE / (ray @ rotation)[..., 2]  # R^T ray, third row: world z of a point at depth 1
        point = (ray * depth[..., None]) @ rotation + center
        grid = torch.stack([point[..., 0] / 5.0, point[..., 1] / 3.75], -1).float()
        images.append(torch.nn.functional.grid_sample(texture[None], grid[None], align_corners=False)[0])
        depths.append((1 / depth).float())
        transforms.append(transform)
    size = torch.full((views,), HEIGHT), torch.full((views,), WIDTH)
    cameras = Cameras(k.expand(views, 3, 3).clone(), torch.stack(transforms), *size)
    return MultiViewScene([f"view-{n}" for n in range(views)], cameras, images, depths)


CONFIG = ChainConfig(chain_size=64, neighbours=3, jitter=0.05)


def chains(**changes) -> SceneChains:
    from dataclasses import replace

    return SceneChains([normalised_scene(plane_scene(), "wall")], replace(CONFIG, **changes), seed=4)


def test_crops_of_a_chain_show_the_same_and_their_cameras_say_where():
    for number in range(4):
        chain = chains().sample(number)
        image = chain.image.float() / 255
        for n in range(1, 4):
            found = disparity_and_mask(
                chain.inverse_depth[n : n + 1], chain.cameras[n], chain.inverse_depth[n - 1 : n], chain.cameras[n - 1]
            )
            aligned = warp(image[n - 1 : n], found.disparity)
            mask = found.mask[0]
            assert mask.float().mean() > 0.5
            error = (aligned[0] - image[n]).square()[:, mask].mean()
            unaligned = (image[n - 1] - image[n]).square()[:, mask].mean()
            assert error < 0.15 * unaligned and error < 2e-3, (number, n, float(error), float(unaligned))


def test_chains_are_functions_of_their_number():
    source = chains()
    one, again, other = source.sample(3), source.sample(3), source.sample(4)
    assert torch.equal(one.image, again.image) and torch.equal(one.keep, again.keep)
    assert not torch.equal(one.image, other.image)
    assert one.image.shape == (4, 3, 64, 64) and one.inverse_depth.shape == (4, 64, 64)
    assert one.inverse_depth.min() > 0 and one.inverse_depth.max() <= 1
    kept = torch.stack([source.sample(n).keep for n in range(100)])
    assert not kept[:, 0].any() and 0.75 < kept[:, 1:].float().mean() < 0.95


def test_a_window_is_followed_into_the_next_view():
    scene = normalised_scene(plane_scene(), "wall")
    share, (x0, _, side) = follow_window(scene, 0, (60, 30, 64), 1)
    # 0.25 to the right at distance 5 and 0.02 rad: 7 px back by parallax, 2.8 px by the turn
    assert share > 0.8 and side == 64 and abs(x0 - (60 - 7 + 2.8)) <= 2


def test_chain_loss_is_equation_9():
    batch = collate_chains([(chains().sample(n), level) for n, level in ((0, 10.0), (1, 50.0))])
    batch.keep[:, 1:] = True
    model = StandInCodec(noise=0.0)
    depth_lambda = lambda level: 3 * lambda_of_level(level)  # noqa: E731
    objective = ChainObjective(LossConfig(level_weight_power=0.0), lambda_of_level, depth_lambda, 64)
    result = objective(model, batch)
    weights = (0.5, 1.2, 0.5, 0.9)
    total, state = torch.zeros(2), None
    for n in range(4):
        image = batch.image[:, n].float() / 255
        out = model.forward_view(image, batch.inverse_depth[:, n], batch.cameras[n], state, batch.level, None)
        assert out.inverse_depth is not None and out.depth_target is not None and out.depth_bits is not None
        state = out.state
        error = (out.image - image).square().flatten(1).mean(1)
        depth = (out.inverse_depth - out.depth_target).square().flatten(1).mean(1)
        lambdas = lambda_of_level(batch.level)
        total += weights[n] * (lambdas * error + 3 * lambdas * depth) + (out.image_bits + out.depth_bits) / 64**2
    # each view's term is limited (`log_limited`) where it is very large, as for an untrained codec
    assert float(result.loss) <= float((total / 4).mean())
    gentle = ChainObjective(LossConfig(level_weight_power=0.0), lambda level: 0.01 * level + 0.01, lambda level: 0 * level, 64)
    small = gentle(model, batch)
    total, state = torch.zeros(2), None
    for n in range(4):
        image = batch.image[:, n].float() / 255
        out = model.forward_view(image, batch.inverse_depth[:, n], batch.cameras[n], state, batch.level, None)
        assert out.depth_bits is not None
        state = out.state
        error = (out.image - image).square().flatten(1).mean(1)
        total += weights[n] * (0.01 * batch.level + 0.01) * error + (out.image_bits + out.depth_bits) / 64**2
    assert float(total.max()) < 10
    torch.testing.assert_close(small.loss, (total / 4).mean())
    result.loss.backward()
    assert model.reference.weight.grad is not None and model.reference.weight.grad.abs().sum() > 0
    assert result.samples == 8 and result.pixels == 8 * 64**2


def test_gradients_pass_through_references_unless_detached():
    batch = collate_chains([(chains().sample(0), 30.0)])
    batch.keep[:, 1:] = True

    def gradient(detach: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = StandInCodec(noise=0.0)
        objective = ChainObjective(LossConfig(), lambda_of_level, lambda_of_level, 64, detach=detach)
        objective.view_weights = (0.0,)
        if detach:  # the stand-in's state is a plain tensor, and has detach() too
            objective.detach = True
        objective(model, batch).loss.backward()
        grad = model.synthesis.weight.grad
        return torch.zeros_like(model.synthesis.weight) if grad is None else grad

    # without distortions, the synthesis matters only through the references' rate
    assert gradient(False).abs().sum() > 0
    assert gradient(True).abs().sum() == 0


def test_given_depth_is_free_and_block_wise():
    depth = torch.rand(3, 32, 48)
    coarse = block_means(depth, torch.arange(3))
    for sample, side in enumerate(DEPTH_BLOCKS):
        blocks = coarse[sample].unfold(0, side, side).unfold(1, side, side)
        torch.testing.assert_close(blocks.amax((-1, -2)), blocks.amin((-1, -2)))
        torch.testing.assert_close(
            blocks.mean((-1, -2)), depth[sample].unfold(0, side, side).unfold(1, side, side).mean((-1, -2))
        )

    torch.manual_seed(0)
    model = build_model("tiny")
    batch = collate_chains([(chains().sample(0), 30.0)])
    batch.keep[:, 1:] = True
    first = model.forward_view(
        batch.image[:, 0].float() / 255,
        depth[:1, :1, :1].expand(1, 64, 64),
        batch.cameras[0],
        None,
        batch.level,
        given_depth=True,
    )
    assert float(first.depth_bits.sum()) == 0.0
    objective = ChainObjective(LossConfig(), lambda_of_level, lambda_of_level, 64, given_depth=True)
    objective(model, batch).loss.backward()
    assert model.image.analysis_in.weight.grad is not None
    rows = rd_chains(model, [batch], [32.0], lambda_of_level, given_depth=True)
    assert rows and all(np.isfinite(row.bpp) for row in rows)


def test_a_skew_draws_low_levels_more_often():
    plain, skewed = LevelConfig(), LevelConfig(skew=2.0)
    drawn = np.array([[config.sample(7, number) for number in range(400)] for config in (plain, skewed)])
    assert 28 < drawn[0].mean() < 35 and 18 < drawn[1].mean() < 24
    assert drawn.min() == 0.0 and drawn.max() == 63.0


def test_steps_of_photographs_and_chains_alternate_alike_on_all_processes():
    dataset = MixedDataset(chains(), lambda number: (torch.zeros(3, 64, 64), 1.0), lambda n: 1.0, photo_share=0.4)
    kinds = []
    first, second = (
        iter(StepSampler(2, first_step=lambda: 0, rank=r, world=2, keys_of_step=dataset.keys_of_step)) for r in (0, 1)
    )
    for _ in range(60):
        a, b = next(first), next(second)
        assert {kind for kind, _ in a} == {kind for kind, _ in b} and not set(a) & set(b)
        kinds.append(a[0][0])
        assert len(a) == (8 if a[0][0] == "photo" else 2)
    assert 12 <= kinds.count("photo") <= 36


def test_stage_scenes_trains_validates_and_resumes(tmp_path: Path):
    pytest.importorskip("lightning")
    from lmvic_ns.cli.training import collate_mixed
    from lmvic_ns.training.module import OptimizationConfig
    from lmvic_ns.training.runner import RunConfig, run_training
    from lmvic_ns.training.schedule import ScheduleConfig

    levels = LevelConfig()

    def train(folder: Path, steps: int, resume: bool = False):
        torch.manual_seed(0)
        model = StandInCodec()
        crop = torch.zeros(3, 64, 64, dtype=torch.uint8)
        dataset = MixedDataset(chains(), lambda n: (crop, 5.0), lambda n: levels.sample(4, n), photo_share=0.3)
        held_out = validation_chains([normalised_scene(plane_scene(), "wall")], CONFIG, 2, batch=2)

        def validate(m):
            return [
                *rd_chains(m, held_out, (0, 63), lambda_of_level),
                *rd_chains(m, held_out, (0, 63), lambda_of_level, independent=True),
            ]

        optimization = OptimizationConfig(
            schedule=ScheduleConfig(decay="constant", warmup_steps=1), batch=2, seed=4, max_steps=steps
        )
        run = RunConfig(folder=folder, resume=resume, precision="32-true", accelerator="cpu", tensorboard=False)
        objective = ChainObjective(LossConfig(), lambda_of_level, lambda_of_level, 64)
        return run_training(model, objective, dataset, collate_mixed, validate, optimization, run)

    whole = train(tmp_path / "whole", 6)
    train(tmp_path / "half", 3)
    resumed = train(tmp_path / "half", 6, resume=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    lines = (tmp_path / "whole" / "curve.csv").read_text().splitlines()
    assert [line.split(",")[5] for line in lines[1:]] == ["scenes", "scenes", "intra", "intra"]


def test_rows_without_references_do_not_count_in_the_score():
    held_out = validation_chains([normalised_scene(plane_scene(), "wall")], CONFIG, 2, batch=2)
    model = StandInCodec()
    with_references = rd_chains(model, held_out, (0, 63), lambda_of_level)
    alone = rd_chains(model, held_out, (0, 63), lambda_of_level, independent=True)
    assert score([*with_references, *alone]) == score(with_references) and model.training
    assert with_references[0].bpp != alone[0].bpp


def test_photo_batches_go_to_the_photo_loss():
    objective = ChainObjective(LossConfig(), lambda_of_level, lambda_of_level, 64)
    batch = PhotoBatch(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([0.0, 63.0]))
    assert objective(StandInCodec(), batch).samples == 2


def write_points(path: Path, points: np.ndarray, *, binary: bool) -> Path:
    header = f"ply\nformat {'binary_little_endian' if binary else 'ascii'} 1.0\nelement vertex {len(points)}\n"
    header += "property float x\nproperty float y\nproperty float z\nproperty uchar red\nend_header\n"
    if binary:
        table = np.zeros(len(points), dtype=[("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1")])
        table["x"], table["y"], table["z"] = points.T
        body = table.tobytes()
    else:
        body = "".join(f"{x:.6f} {y:.6f} {z:.6f} 7\n" for x, y, z in points).encode()
    path.write_bytes(header.encode() + body)
    return path


@pytest.mark.parametrize("binary", [False, True])
def test_depth_of_a_plane_from_its_points_is_exact(tmp_path: Path, binary: bool):
    random = np.random.default_rng(2)
    points = np.stack([random.uniform(-6, 6, 3000), random.uniform(-4, 4, 3000), np.full(3000, DISTANCE)], 1)
    hidden = points[:100] * np.array([1.5, 1.5, 2.0])  # behind the wall: must not shine through
    cloud = read_ply_points(write_points(tmp_path / "points.ply", np.concatenate([points, hidden]), binary=binary))
    assert cloud.shape == (3100, 3)
    scene = plane_scene()
    for view in (0, 4):
        dense, true = sfm_inverse_depth(cloud, scene.cameras[view]), scene.inverse_depth(view)
        assert ((dense - true).abs() / true).median() < 1e-3
        assert ((dense - true).abs() / true).quantile(0.99) < 0.02


def test_a_scene_with_depth_is_kept_as_a_dataset_and_loaded_again(tmp_path: Path):
    scene = plane_scene(3)
    random = np.random.default_rng(2)
    points = np.stack([random.uniform(-6, 6, 500), random.uniform(-4, 4, 500), np.full(500, DISTANCE)], 1)
    dense = with_sfm_depth(scene, write_points(tmp_path / "points.ply", points, binary=True))
    write_depth_cache(dense, tmp_path / "scenes" / "wall")
    assert [p.name for p in find_scenes(tmp_path / "scenes")] == ["wall"]
    loaded = load_scene(tmp_path / "scenes" / "wall")
    assert len(loaded) == 3 and loaded.images[0].shape == (HEIGHT, WIDTH, 3)
    # the codec's unit: depth 1 / normalised inverse depth, so t * scale
    distance = np.linalg.norm(loaded.world_to_camera[1][:3, 3]) / np.linalg.norm(scene.cameras.world_to_camera[1][:3, 3])
    normalised = loaded.inverse_depths[1].mean() / 65535
    assert normalised * distance == pytest.approx(float(scene.inverse_depth(1).mean()), rel=1e-3)


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(SceneError, match="cannot read the seed points"):
        read_ply_points(tmp_path / "none.ply")
    with pytest.raises(SceneError, match="sparse points"):
        with_sfm_depth(plane_scene())
    with pytest.raises(TrainingError, match="lmvic prepare"):
        normalised_scene(plane_scene().with_inverse_depth(None), "wall")
    with pytest.raises(SceneError, match="no scenes"):
        find_scenes(tmp_path)


def photo_set(count: int = 30) -> PhotoSet:
    random = np.random.default_rng(7)
    small = (Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(count))
    images = tuple(np.asarray(s.resize((120, 100), Image.Resampling.BICUBIC)) for s in small)
    return PhotoSet(tuple(f"photo-{n:03d}.png" for n in range(count)), images)


def test_a_pack_holds_what_was_put_in_and_keeps_what_is_held_out(tmp_path: Path):
    photos, scene = photo_set(), normalised_scene(plane_scene(), "wall")
    path = tmp_path / "data.lmvicpack"
    facts = write_pack(path, photos, [scene], PackConfig(validation_photos=4, quality=95))
    assert facts["photos"] == 30 and facts["views"] == {"wall": 5} and path.stat().st_size <= 40e6
    read = Pack(path).photos()
    assert np.abs(read.images[3].astype(int) - photos.images[3].astype(int)).mean() < 2
    ours, theirs = photos.split_validation(4)[1].names, read.split_validation(16)[1].names
    assert [Path(n).stem for n in theirs] == [Path(n).stem for n in ours]
    (again,) = Pack(path).scenes()
    assert np.allclose(again.intrinsics, scene.intrinsics) and np.array_equal(again.world_to_camera, scene.world_to_camera)
    assert again.inverse_depths[2].shape == (HEIGHT // 4, WIDTH // 4)
    direct = SceneChains([scene], CONFIG, seed=4).sample(2)
    packed = SceneChains([again], CONFIG, seed=4).sample(2)
    assert (direct.inverse_depth - packed.inverse_depth).abs().max() < 0.02
    assert write_pack(tmp_path / "b", photos, [scene], PackConfig(validation_photos=4, quality=95)) == facts
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


def test_a_pack_keeps_to_its_size(tmp_path: Path):
    path = tmp_path / "small.lmvicpack"
    scene = normalised_scene(plane_scene(), "wall")
    facts = write_pack(path, photo_set(), [scene], PackConfig(megabytes=0.15, scene_share=0.5, validation_photos=2))
    assert path.stat().st_size <= 150_000 and 2 <= facts["photos"] < 30 and facts["views"]["wall"] >= 4
    with pytest.raises(TrainingError, match="do not fit"):
        write_pack(path, photo_set(), [scene], PackConfig(megabytes=0.01, validation_photos=2))


def test_a_damaged_pack_is_named(tmp_path: Path):
    path = tmp_path / "data.lmvicpack"
    write_pack(path, photo_set(4), [], PackConfig(validation_photos=1))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="lmvic train pack"):
        Pack(path).photos()
    (tmp_path / "text").write_text("no pack")
    with pytest.raises(TrainingError, match="not a training pack"):
        Pack(tmp_path / "text")


@pytest.mark.data
def test_depth_from_points_aligns_real_views(data_root: Path):
    """The wide baselines of a real scene: warped neighbours come at least 4 dB nearer than unaligned ones."""
    scene = with_sfm_depth(MultiViewScene.from_dataset(data_root / "scenes" / "herz-jesus"))
    depths = [scene.inverse_depth(i)[None] for i in (2, 3)]
    reference, image = scene.image(2)[None], scene.image(3)[None]
    found = disparity_and_mask(depths[1], scene.cameras[3], depths[0], scene.cameras[2])
    mask = found.mask[0]
    aligned = (warp(reference, found.disparity) - image).square()[0][:, mask].mean()
    unaligned = (reference - image).square()[0][:, mask].mean()
    assert mask.float().mean() > 0.6 and 10 * torch.log10(unaligned / aligned) > 4

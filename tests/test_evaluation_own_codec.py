from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns.codec import build_model, load_codec, save_weights
from lmvic_ns.codec.weights import load_weights
from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation import speed
from lmvic_ns.evaluation.ablation import SWITCHES, VARIANTS, variant
from lmvic_ns.evaluation.image_set import ImageSet, load_image_set
from lmvic_ns.evaluation.own_codec import OwnCodec, ablated_weights, photograph_scene
from lmvic_ns.evaluation.peers import MissingCodecError, NotApplicableError
from lmvic_ns.evaluation.rd import measure
from lmvic_ns.evaluation.speed_worker import plane_scene

HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_weights(build_model("tiny"), path, {"name": "untrained"})
    return str(path)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("scenes") / "plane"
    plane_scene(3, HEIGHT, WIDTH).write_dataset(folder)
    return load_image_set(folder, pinhole=True)


def test_figures_come_from_files_decoded_by_another_process(weights: str, plane: ImageSet, tmp_path: Path):
    codec = OwnCodec(weights, references=True)
    encoded = codec.encode(plane, range(3), 40, tmp_path)
    assert sum(encoded.view_bytes) == (tmp_path / "scene.lmvic").stat().st_size
    assert min(encoded.view_bytes) > 0
    here = {view.index: to_8_bit(view.image) for view in load_codec(weights).decode(tmp_path / "scene.lmvic")}
    decoded = codec.decode(encoded, range(3))
    for view, picture in enumerate(decoded):
        # two processes may round a value at the edge of a grey level differently, never more
        difference = np.abs(picture.astype(int) - here[view].astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_a_failing_decoder_process_is_an_error_with_its_last_line(weights: str, plane: ImageSet, tmp_path: Path):
    codec = OwnCodec(weights, references=False)
    encoded = codec.encode(plane, range(3), 20, tmp_path)
    damaged = bytearray(encoded.files[0].read_bytes())
    damaged[:8] = b"nonsense"
    encoded.files[0].write_bytes(damaged)
    with pytest.raises(LmvicError, match=r"in another process failed: .*Error"):
        codec.decode(encoded, range(3))


def test_intra_needs_no_depth_and_references_do(weights: str, plane: ImageSet, tmp_path: Path):
    folder = tmp_path / "no-depth"
    plane.scene.with_inverse_depth(None).write_dataset(folder, depth_format=None)
    without = load_image_set(folder, pinhole=True)
    with pytest.raises(NotApplicableError, match="needs depth"):
        OwnCodec(weights, references=True).encode(without, range(3), 20, tmp_path)
    assert len(OwnCodec(weights, references=False).encode(without, range(3), 20, tmp_path).view_bytes) == 3


def test_missing_weights_are_reported_as_missing():
    with pytest.raises(MissingCodecError, match="no weights 'nowhere'"):
        OwnCodec("nowhere", references=True).version()


def test_results_depend_on_depth_and_tree_only_where_they_are_used(weights: str, plane: ImageSet, tmp_path: Path):
    other = tmp_path / "plane"
    plane.scene.with_inverse_depth([torch.full((HEIGHT, WIDTH), 0.3)] * 3).write_dataset(other)
    moved = load_image_set(other, pinhole=True)
    assert moved.content_hash == plane.content_hash
    assert OwnCodec(weights, references=True).inputs_hash(moved) != OwnCodec(weights, references=True).inputs_hash(plane)
    assert OwnCodec(weights, references=False).inputs_hash(moved) == OwnCodec(weights, references=False).inputs_hash(plane)


def test_a_photograph_is_a_scene_of_one_view():
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    scene = photograph_scene(picture)
    assert np.array_equal(to_8_bit(scene.image(0)), picture)
    assert not scene.has_depth


def test_switched_off_weights_learned_the_same_and_differ_in_the_switch(weights: str, tmp_path: Path):
    whole, part = load_weights(weights), load_weights(ablated_weights(weights, tmp_path, alignment=False))
    assert whole.model.config.ablation.alignment
    assert not part.model.config.ablation.alignment
    assert part.hash != whole.hash
    state = part.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.model.state_dict().items())


def test_variants_change_what_they_say(weights: str, plane: ImageSet, tmp_path: Path):
    codecs = {name: variant(name, plane, weights, "cpu", tmp_path) for name in VARIANTS}
    assert {name for name, codec in codecs.items() if codec.weights != weights} == set(SWITCHES)
    files = {}
    for name in ("tree", "no cross-view information", "no depth prediction", "equal quality", "no loop filter"):
        folder = tmp_path / name
        folder.mkdir()
        files[name] = codecs[name].encode(plane, range(3), 30, folder).view_bytes
    assert len(set(files.values())) == 5
    with pytest.raises(LmvicError, match="there is no variant 'half'"):
        variant("half", plane, weights, "cpu", tmp_path)


def test_measure_takes_our_codec_like_any_other(weights: str, plane: ImageSet):
    views, encode_s, decode_s = measure(plane, OwnCodec(weights, references=False), range(3), 60)
    assert [v.view for v in views] == [f.stem for f in plane.files]
    assert all(v.psnr > 20 for v in views)
    assert encode_s > 0
    assert decode_s > 0


def test_stage_clock_counts_each_moment_once_and_puts_functions_back():
    now = iter(range(100))

    class Thing:
        def outer(self) -> int:
            return self.inner() + 1

        def inner(self) -> int:
            return 1

    clock, thing = speed.StageClock(), Thing()
    speed_time, speed.time.perf_counter = speed.time.perf_counter, lambda: float(next(now))
    try:
        with clock.timed([(Thing, "inner", "file"), (thing, "outer", "geometry")]), clock.stage("other"):
            assert thing.outer() == 2
    finally:
        speed.time.perf_counter = speed_time
    # boundaries at 0 (other), 1 (outer), 2 (inner), 3 (inner ends), 4 (outer ends), 5
    assert (clock.seconds["other"], clock.seconds["geometry"], clock.seconds["file"]) == (2.0, 2.0, 1.0)
    assert "outer" not in vars(thing)
    assert Thing.inner.__qualname__.endswith("Thing.inner")


@pytest.mark.slow
def test_speed_measures_all_stages(weights: str, tmp_path: Path):
    result = speed.measure_speed(weights, "cpu", None, tmp_path, views=2, size=(HEIGHT, WIDTH), quality=30, threads=1)
    assert result.views == 2
    assert result.pixels == HEIGHT * WIDTH
    for seconds in (result.encode_s, result.decode_s):
        stages = {name: seconds[name] for name in speed.STAGES}
        assert sum(stages.values()) == pytest.approx(seconds["total"], rel=0.05)
        assert all(stages[name] > 0 for name in ("geometry", "image networks", "entropy coder", "file"))
    assert result.encode_macs > result.decode_macs > 1000
    assert 100 < result.encode_peak_mb < 20000
    assert len(speed.speed_rows(result)) == 2
    assert len(speed.speed_rows(result)[0]) == len(speed.SPEED_HEADER)


def test_ablation_command_compares_variants_with_the_whole(
    weights: str, plane: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from lmvic_ns.cli.main import run
    from lmvic_ns.evaluation import own_codec

    def decode_here(files, name, device):  # eight more processes would test nothing new
        return [to_8_bit(view.image) for view in sorted(load_codec(name).decode(files[0]), key=lambda v: v.index)]

    monkeypatch.setattr(own_codec, "decode_files", decode_here)
    arguments = ["eval", "ablation", str(plane.folder), "--weights", weights, "--variants", "no cross-view information"]
    arguments += ["--qualities", "0,20,40,63", "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert run(arguments) == 0
    table = (tmp_path / "out" / "bd-rate.csv").read_text().splitlines()
    rows = {line.split(",")[1]: line.split(",")[3] for line in table[2:]}
    assert set(rows) == {"tree", "no cross-view information"}
    assert abs(float(rows["tree"])) < 1e-6
    assert abs(float(rows["no cross-view information"])) > 0.01


def test_exact_layers_are_counted_like_their_float_twins():
    from lmvic_ns.codec.networks.complexity import count_macs
    from lmvic_ns.codec.networks.fixed_point import FixedPointConv2d, to_fixed

    layer, x = FixedPointConv2d(6, 4), torch.rand(1, 6, 5, 7)
    with torch.no_grad(), count_macs(layer) as count:
        layer.exact(to_fixed(x))
    assert count.total == 6 * 4 * 5 * 7
    with torch.no_grad(), count_macs(layer) as count:
        layer(x)
        layer.exact(to_fixed(x))
    assert count.total == 2 * 6 * 4 * 5 * 7 and "exact" not in vars(layer)


def test_decoding_takes_operations_in_exact_layers(weights: str):
    from lmvic_ns.codec.networks.complexity import count_macs
    from lmvic_ns.codec.networks.fixed_point import FixedPointConv2d

    codec, scene = load_codec(weights), plane_scene(1, 64, 64)
    with torch.no_grad(), count_macs(codec.model) as count:
        codec.model.compress(scene.image(0)[None], None, scene.cameras[0], None, 30)
    assert sum(value for part, value in count.of.items() if isinstance(part, FixedPointConv2d)) > 0


def test_no_stage_hides_in_other(weights: str, tmp_path: Path):
    from dataclasses import replace

    from lmvic_ns.codec.effort import Effort
    from lmvic_ns.codec.latent_refinement import LatentRefinement
    from lmvic_ns.codec.records import EncodeOptions

    codec, scene, clock = load_codec(weights), plane_scene(2, HEIGHT, WIDTH), speed.StageClock()
    effort = replace(Effort.named("fast"), latent=LatentRefinement(steps=2))
    targets = speed.stage_targets(codec.model)
    with clock.timed(targets), clock.stage("other"):
        codec.encode(scene, tmp_path / "x.lmvic", options=EncodeOptions(quality=30, effort=effort))
    assert all(clock.seconds[stage] > 0 for stage in speed.STAGES), clock.seconds
    clock = speed.StageClock()
    with clock.timed(targets), clock.stage("other"):
        list(codec.decode(tmp_path / "x.lmvic"))
    assert all(clock.seconds[stage] > 0 for stage in speed.STAGES if stage != "latent fitting"), clock.seconds

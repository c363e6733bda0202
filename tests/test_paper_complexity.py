"""The published totals of the paper preset, and the counters themselves."""

from __future__ import annotations

import pytest
import torch
from compressai.layers import GDN
from torch import nn

from lmvic_ns.codec.networks.complexity import count_macs, macs_per_pixel, parameters
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.paper.model import PaperCodec


@pytest.fixture(scope="module")
def paper() -> PaperCodec:
    torch.manual_seed(0)
    return PaperCodec().eval()


def test_parameters_are_the_published_ones(paper: PaperCodec) -> None:
    assert parameters(paper.encoder_side()) == pytest.approx(41.9e6, rel=0.01)
    assert parameters(paper.decoder_side()) == pytest.approx(36.9e6, rel=0.01)
    image, depth = paper.image, paper.depth
    assert image.mask_extractor is not None and depth.mask_extractor is not None
    published = {  # in the paper, in millions
        3.805: [image.encoder],
        2.921: [depth.encoder],
        2.309: [depth.decoder],
        1.041: [image.entropy.hyper_analysis],
        2.108: [image.reference_features, image.cross_view_prior],
        3.838: [image.mask_extractor],
        2.102: [depth.prediction_features, depth.cross_view_prior],
        10.658: [depth.mask_extractor],
        2.327: [depth.entropy.hyper_synthesis],
        1.844: [image.entropy.spatial_context],
        1.853: [image.entropy.parameters_net],
    }
    for millions, modules in published.items():
        assert parameters(modules) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert parameters(image.decoder) / 1e6 == pytest.approx(3.805, abs=6e-4)


def test_both_sides_together_are_the_whole_model(paper: PaperCodec) -> None:
    assert parameters(paper.encoder_side() + paper.decoder_side()) == parameters(paper)


def test_macs_are_the_published_ones(paper: PaperCodec) -> None:
    size = 64
    intrinsics = torch.tensor([[[60.0, 0, 32], [0, 60, 32], [0, 0, 1]]])
    camera = Cameras(intrinsics, torch.eye(4)[None], torch.tensor([size]), torch.tensor([size]))
    with torch.no_grad(), count_macs(paper) as count:
        paper.forward_view(torch.rand(1, 3, size, size), torch.full((1, size, size), 0.5), camera, None)
    per_pixel = {
        860e3: count.within(paper.encoder_side()),
        782e3: count.within(paper.decoder_side()),
        453e3: count.within(paper.image) - count.within(paper.image.decoder),
        407e3: count.within(paper.depth),
        330e3: count.within(paper.depth) - count.within([paper.depth.encoder, paper.depth.entropy.hyper_analysis]),
        253e3: count.within(paper.image.encoder.transfer),
    }
    for published, counted in per_pixel.items():
        assert counted / size**2 == pytest.approx(published, rel=0.03)


class _Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)

    def macs(self, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
        return 7 * inputs[0].shape[-1]


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 4, 8, 8), 4 * 4 * 6 * 4 * 9),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 8, 8), 2 * 64 * 4 * 9),
        (nn.ConvTranspose2d(4, 6, 5, stride=2, padding=2, output_padding=1), (1, 4, 8, 8), 64 * 4 * 6 * 25),
        (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), (1, 4, 8, 8), 64 * 4 * 2 * 4),
        (nn.Linear(5, 7), (3, 5), 3 * 5 * 7),
        (GDN(6), (1, 6, 4, 4), 16 * 36),
        (_Counted(), (1, 3, 4, 9), 63),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), _Counted()), (1, 3, 4, 9), 36 * 9 + 63),
    ],
)
def test_counting_rules(module: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert macs_per_pixel(lambda: module(torch.rand(shape)), module, 1) == expected


def test_a_module_that_runs_twice_counts_twice_and_parameters_once() -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, shared)
    assert macs_per_pixel(lambda: model(torch.rand(1, 3, 2, 2)), model, 4) == 2 * 9
    assert macs_per_pixel(lambda: model(torch.rand(1, 3, 2, 2)), model, 4, within=shared) == 2 * 9
    assert parameters(model) == parameters([shared, shared]) == 12
    with count_macs(model) as count:
        pass
    model(torch.rand(1, 3, 2, 2))  # the hooks are gone
    assert count.total == 0

"""The quadtree partition entropy model of the paper preset: order, causality, gates, bits and streams."""

from __future__ import annotations

import pytest
import torch
from compressai.models.base import get_scale_table
from torch import Tensor

from lmvic_ns.errors import BitstreamError, WeightsError
from lmvic_ns.paper.config import PaperConfig
from lmvic_ns.paper.entropy import GROUPS, STEPS, LatentEntropyModel, fold, quadtree_masks, unfold
from lmvic_ns.paper.layers import ViewContext
from lmvic_ns.paper.tables import tables_of

N, M = 8, 12


def make_model(spread: float = 4.0, updated: bool = True) -> LatentEntropyModel:
    """Random weights that expect latents of about this spread."""
    torch.manual_seed(1)
    model = LatentEntropyModel(PaperConfig(n=N, m=M)).eval()
    with torch.no_grad():
        bias = model.parameters_net[-1].bias
        assert isinstance(bias, Tensor)
        bias[:M] += spread
        for name, weight in model.parameters_net.named_parameters():
            weight.mul_(2.0 if name.endswith("weight") else 1.0)  # so that contexts matter
    if updated:
        model.gaussian.update_scale_table(get_scale_table())
        model.bottleneck.update()
    return model


def make_context(height: int, width: int) -> ViewContext:
    generator = torch.Generator().manual_seed(2)
    empty = torch.zeros(0)
    gates = 0.5 + torch.rand(1, 6 * M, height, width, generator=generator)
    prior = torch.randn(1, 2 * M, height, width, generator=generator)
    return ViewContext((empty, empty, empty), prior, (empty, empty, empty, gates))


def make_latent(height: int, width: int, spread: float = 4.0) -> Tensor:
    return spread * torch.randn(1, M, height, width, generator=torch.Generator().manual_seed(3))


def test_steps_are_a_partition_in_the_published_order() -> None:
    masks = quadtree_masks(6, 10)
    assert masks.shape == (STEPS, GROUPS, 1, 6, 10)
    assert (masks.sum(0) == 1).all()  # every group at every position exactly once
    assert (masks.sum(1) == 1).all()  # in each step one group at every pixel
    for step, shift in enumerate((0, 3, 2, 1)):
        for group in range(GROUPS):
            row, column = divmod(group ^ shift, 2)
            assert masks[step, group, 0, row::2, column::2].all()
            assert masks[step, group].sum() == 15


def test_the_second_step_completes_a_checkerboard() -> None:
    masks = quadtree_masks(4, 4)
    row, column = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    for group in range(GROUPS):
        parity = (row + column + (group in (1, 2))) % 2 == 0
        assert torch.equal((masks[0] | masks[1])[group, 0], parity)


def test_fold_and_unfold_are_inverse() -> None:
    x = torch.randn(2, M, 4, 6)
    masks = quadtree_masks(4, 6)
    assert fold(x, masks[0]).shape == (2, M // 4, 4, 6)
    assert torch.equal(torch.stack([unfold(fold(x, m), m) for m in masks]).sum(0), x)


class Recorder:
    """Passes symbols through and keeps what was coded."""

    def __init__(self) -> None:
        self.symbols: list[Tensor] = []

    def code(self, symbols: Tensor | None, indexes: Tensor) -> Tensor:
        assert symbols is not None
        assert symbols.shape == indexes.shape
        self.symbols.append(symbols)
        return symbols


@pytest.mark.parametrize("changed", range(STEPS))
def test_a_symbol_changes_no_parameters_of_its_own_or_an_earlier_step(changed: int, monkeypatch) -> None:
    model, context, latent = make_model(), make_context(8, 8), make_latent(8, 8)
    z = torch.zeros(1, N, 2, 2)
    other = latent.clone()
    group_mask = quadtree_masks(8, 8)[changed]
    other += 3.0 * unfold(torch.ones(1, M // 4, 8, 8), group_mask)
    parameters: list[tuple[Tensor, Tensor]] = []
    compute = LatentEntropyModel.step_parameters

    def recorded(*arguments):
        parameters.append(compute(*arguments))
        return parameters[-1]

    monkeypatch.setattr(LatentEntropyModel, "step_parameters", recorded)
    with torch.no_grad():
        for values in (latent, other):
            model._code((8, 8), context, Recorder(), values, z)
    before, after = parameters[:STEPS], parameters[STEPS:]
    for step in range(STEPS):
        same = all(torch.equal(a, b) for a, b in zip(before[step], after[step], strict=True))
        assert same == (step <= changed)


def test_every_symbol_is_coded_once() -> None:
    model, latent = make_model(), make_latent(8, 12)
    recorder = Recorder()
    with torch.no_grad():
        decoded = model._code((8, 12), make_context(8, 12), recorder, latent, torch.zeros(1, N, 2, 3))
    assert sum(s.numel() for s in recorder.symbols[1:]) == latent.numel()
    assert (decoded - latent).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_gate_shuts_its_own_input(part: int) -> None:
    model, context = make_model(), make_context(4, 4)
    assert context.masks is not None
    gates = context.masks[3].clone()
    gates[:, 2 * M * part : 2 * M * (part + 1)] = 0.0
    shut = (*context.masks[:3], gates)
    mask = quadtree_masks(4, 4)[1]
    inputs = [torch.randn(1, 2 * M, 4, 4), context.prior, torch.randn(1, M, 4, 4)]

    def run(hyper: Tensor, prior: Tensor, decoded: Tensor) -> Tensor:
        view = ViewContext(context.features, prior, shut)
        with torch.no_grad():
            return torch.cat(model.step_parameters(1, hyper, view, decoded, mask))

    base = run(*inputs)
    for index in range(3):
        varied = list(inputs)
        varied[index] = varied[index] + 1.0
        assert torch.equal(run(*varied), base) == (index == part)


def test_indexes_are_compressai_s() -> None:
    model = make_model()
    scales = torch.cat([torch.rand(1000) * 20 - 1, model.gaussian.scale_table, torch.tensor([0.0, 1e9])])
    ours = torch.bucketize(scales, model.gaussian.scale_table[:-1])
    assert torch.equal(ours, model.gaussian.build_indexes(scales).long())


def test_stream_round_trip_and_estimated_bits() -> None:
    model, context, latent = make_model(), make_context(64, 80), make_latent(64, 80)
    with torch.no_grad():
        estimated = model(latent, context)
        data, encoded = model.compress(latent, context)
        decoded = model.decompress(data, (64, 80), context)
    assert torch.equal(encoded, decoded)
    assert torch.allclose(encoded, estimated.latent, atol=1e-4)
    assert 8 * len(data) == pytest.approx(float(estimated.bits), rel=0.01)
    assert len(data) > 10_000


def test_symbols_far_outside_the_tables_are_escaped() -> None:
    model, context = make_model(), make_context(4, 4)
    latent = make_latent(4, 4)
    latent[0, 0, 0, 0], latent[0, 1, 1, 1], latent[0, 2, 2, 2] = 20_000.0, -20_000.0, 1e6
    with torch.no_grad():
        data, encoded = model.compress(latent, context)
        assert torch.equal(model.decompress(data, (4, 4), context), encoded)
    assert abs(encoded[0, 0, 0, 0] - 20_000) <= 0.51
    assert encoded[0, 2, 2, 2] < 33_000  # 16-bit symbols: clamped, and the encoder knows


def test_damaged_streams_end_in_a_bitstream_error_or_in_numbers() -> None:
    model, context, latent = make_model(), make_context(8, 8), make_latent(8, 8)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        data, _ = model.compress(latent, context)
        errors = 0
        for case in range(60):
            damaged = bytearray(data)
            position = int(torch.randint(len(data), (1,), generator=generator))
            if case % 3 == 0:
                damaged = damaged[:position]
            elif case % 3 == 1:
                damaged[position] ^= 1 << int(torch.randint(8, (1,), generator=generator))
            else:
                damaged[position:position] = b"\x5a" * 5
            try:
                model.decompress(bytes(damaged), (8, 8), context)
            except BitstreamError as error:
                errors += 1
                assert "stream" in str(error)
    assert errors > 50


def test_coding_needs_tables() -> None:
    model = make_model(updated=False)
    with pytest.raises(WeightsError, match="update"), torch.no_grad():
        model.compress(make_latent(4, 4), make_context(4, 4))


def test_damaged_tables_are_named() -> None:
    model = make_model()
    dict(model.gaussian.named_buffers())["_quantized_cdf"][3, 2] = 0
    with pytest.raises(WeightsError, match="damaged"):
        tables_of(model.gaussian)


def test_training_uses_noise_and_scores_it() -> None:
    model = make_model().train()
    latent = make_latent(16, 16).requires_grad_()
    out = model(latent, make_context(16, 16))
    difference = (out.latent - latent).detach()
    assert difference.abs().max() <= 0.5 + 1e-4
    assert difference.std() == pytest.approx(12**-0.5, rel=0.1)
    expected = -torch.stack([value.log2().sum() for value in out.likelihoods.values()]).sum()
    assert torch.allclose(out.bits.sum(), expected)
    out.bits.sum().backward()
    assert latent.grad is not None and latent.grad.abs().sum() > 0

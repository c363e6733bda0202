"""Muon over 1x1 convolutions: torch's arithmetic, in groups of equal shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmvic_ns.training.muon import PointwiseMuon, orthogonalized

SHAPES = ((192, 192), (192, 96), (96, 192), (192, 192))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_updates_are_those_of_torch():
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    ours = [nn.Parameter(w.clone()[:, :, None, None].contiguous(memory_format=torch.channels_last)) for w in start]
    theirs = [nn.Parameter(w.clone()) for w in start]
    a = PointwiseMuon(ours, lr=1e-2, weight_decay=0.1)
    b = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for x, y in zip(ours, theirs, strict=True):
            y.grad = torch.randn(y.shape, generator=generator)
            x.grad = y.grad.clone()[:, :, None, None]
        a.step()
        b.step()
    for x, y, w in zip(ours, theirs, start, strict=True):
        assert float((x.detach().flatten(1) - y.detach()).abs().max()) < 1e-6
        assert float((y.detach() - w).abs().mean()) > 1e-3


def test_singular_values_come_near_one():
    matrices = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalized(matrices).float())
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.5


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="1x1"):
        PointwiseMuon([nn.Parameter(torch.randn(8, 8, 3, 3))])

"""Encoding one view: everything that decoders never do, from choosing the depth's level to fitting latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.codec.depth import CODED_DEPTH_MARGIN, DEPTH_FACTOR, pad_depth
from lmvic_ns.codec.depth_quadtree import QUADTREE
from lmvic_ns.codec.depth_refinement import DepthRefinement, WarpError, refine_inverse_depth
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.image import STRIDE, ImageContext, fixed_coverage
from lmvic_ns.codec.latent_refinement import LatentRefinement, refine_latent
from lmvic_ns.codec.layers import pad_to_multiple
from lmvic_ns.codec.loop_filter import LoopFilter, apply_loop_filter, fit_loop_filter, write_loop_filter
from lmvic_ns.codec.quality import LEVELS, image_lambda
from lmvic_ns.codec.symbols import SymbolWriter
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask, downsample_inverse_depth, upsample_inverse_depth

if TYPE_CHECKING:
    from lmvic_ns.codec.model import MultiViewModel, ReferenceState


@dataclass(frozen=True)
class CodedView:
    """A view as it would stand in a file.

    Attributes:
        depth: its depth part, empty without depth.
        image: its image part.
        state: what a decoder will have.
        cost: lambda times the image's mean squared error, plus bits per pixel.
        loop_filter: what the image part begins with.
        context: what the reference told about it.
    """

    depth: bytes
    image: bytes
    state: ReferenceState
    cost: float
    loop_filter: LoopFilter | None = None
    context: ImageContext | None = None


class ViewEncoder:
    """Codes one view in several ways; the cheapest is kept.

    Args:
        model: the networks.
        image: 0..1, on the model's device and of its type.
        cameras: of the view, as the decoder will have them.
        reference: state of the decoded parent, or None.
        level: quality level of the image.
    """

    def __init__(
        self,
        model: MultiViewModel,
        image: Float[Tensor, "1 3 h w"],
        cameras: Cameras,
        reference: ReferenceState | None,
        level: int,
    ):
        self.model, self.image, self.cameras, self.reference, self.level = model, image, cameras, reference, level
        self.size = image.shape[-2], image.shape[-1]
        self.quality = torch.full((1,), float(level), device=image.device)
        self.weight = image_lambda(level)

    def encode(self, inverse_depth: Float[Tensor, "1 h w"] | None, depth_level: int | None, effort: Effort) -> CodedView:
        """The cheapest of what this effort tries.

        Args:
            inverse_depth: normalised, at full resolution; None codes no depth.
            depth_level: quality level of the depth; None starts from the picture's (the learned codec: the reference's) and
                looks for the one that costs least as far as the effort goes.
            effort: what to try.
        """
        coded = self._with_depth(inverse_depth, depth_level, effort)
        if effort.loop_filter:
            coded = self._with_loop_filter(coded)
        if effort.latent is None or not effort.latent.steps:
            return coded
        fitted = self._with_fitted_latent(coded, effort.latent)
        if effort.loop_filter:
            fitted = self._with_loop_filter(fitted)
        return min(coded, fitted, key=lambda view: view.cost)

    def _with_depth(self, inverse_depth: Tensor | None, depth_level: int | None, effort: Effort) -> CodedView:
        if inverse_depth is None:
            return self._code_image(b"", None)
        if effort.depth_search is not None:
            small = downsample_inverse_depth(inverse_depth.double().to(self.image.device), DEPTH_FACTOR)[0].float()
            return self._as_quadtree(small, depth_level, effort)
        prior = self.model.depth_prior(self.reference, self.cameras)
        target = pad_depth(downsample_inverse_depth(inverse_depth.double().to(self.image.device), DEPTH_FACTOR))
        search = depth_level is None and self.reference is not None and self.model.ablation.cross_view
        if depth_level is None:
            inherited = None if self.reference is None else self.reference.depth_level
            depth_level = self.level if inherited is None else inherited
        if search and effort.depth_level_stride:
            coded, depth_level = self._at_best_level(
                lambda level: self._code(target, prior, level), depth_level, effort.depth_level_stride
            )
        else:
            coded = self._code(target, prior, depth_level)
        if effort.depth is not None and effort.depth.steps and self.reference is not None and self.model.ablation.alignment:
            fitted = self._fitted_depth(target, prior, self.reference, depth_level, effort.depth)
            # both are real: what was gained in depth may be lost in the mask
            coded = min(coded, self._code(fitted, prior, depth_level), key=lambda view: view.cost)
        return coded

    def _as_quadtree(self, target: Tensor, depth_level: int | None, effort: Effort) -> CodedView:
        """The view with its depth as the quadtree that warps best for its bits."""
        assert effort.depth_search is not None
        encoder = self.model.quadtree_encoder(self.image, self.cameras, target, self.reference, self.level, effort.depth_search)

        def code(level: int) -> CodedView:
            part, depth = encoder(level)
            return self._code_image(bytes([QUADTREE]) + part, depth)

        if not encoder.predicted:
            return code(self.level)
        if depth_level is not None or not effort.depth_level_stride:
            return code(self.level if depth_level is None else depth_level)
        return self._at_best_level(code, self.level, effort.depth_level_stride)[0]

    @staticmethod
    def _at_best_level(code: Callable[[int], CodedView], start: int, stride: int) -> tuple[CodedView, int]:
        """Walks from a level by strides, upwards or else downwards, as long as the whole view gets cheaper."""
        best, level = code(start), start
        for step in (stride, -stride):
            while (trial_level := min(max(level + step, 0), LEVELS - 1)) != level:
                trial = code(trial_level)
                if trial.cost >= best.cost:
                    break
                best, level = trial, trial_level
            if level != start:
                break
        return best, level

    def _code(self, target: Tensor, prior: tuple[Tensor | None, Tensor | None], depth_level: int) -> CodedView:
        writer = SymbolWriter(self.model.tables)
        decoded = self.model.code_depth(writer, self.size, depth_level, *prior, target)
        return self._code_image(bytes([depth_level]) + writer.finish(), decoded)

    def _code_image(
        self, depth: bytes, decoded_depth: Tensor | None, latents: tuple[Tensor, Tensor] | None = None
    ) -> CodedView:
        """The image with this depth; `latents` (as `refine_latent` gives them) in place of the analysis network's."""
        context = self.model.decoder_context(self.reference, decoded_depth, self.cameras, self.size)
        if latents is None:
            latent, hyper = self.model.image.analysis(pad_to_multiple(self.image, STRIDE), self.quality, context), None
        else:
            latent, hyper = latents[0], torch.round(latents[1].double())
        writer = SymbolWriter(self.model.tables)
        coverage, prior, direct = self.model.image.priors(context)
        coded = self.model.image.entropy.compress(latent, self.level, writer, fixed_coverage(coverage), prior, direct, hyper)
        data = write_loop_filter(None) + writer.finish()
        state = self.model.reconstruct(coded, self.quality, context, decoded_depth, self.cameras, self.size)
        if depth and depth[0] != QUADTREE:
            state.depth_level = depth[0]
        return replace(self._view(depth, data, state), context=context)

    def _view(self, depth: bytes, image: bytes, state: ReferenceState) -> CodedView:
        error = (state.image - self.image).square().mean().item()
        bits = 8 * (len(depth) + len(image)) / (self.size[0] * self.size[1])
        return CodedView(depth, image, state, self.weight * error + bits)

    def _with_loop_filter(self, plain: CodedView) -> CodedView:
        """The cheaper of a coded view and the same with a loop filter."""
        warped = self.model.warped_reference(plain.context, self.size)
        found = fit_loop_filter(self.image, plain.state.image, self.level, warped)
        if found is None:
            return plain
        symbols = plain.image[len(write_loop_filter(None)) :]
        state = replace(plain.state, image=apply_loop_filter(plain.state.image, found, self.level, warped))
        filtered = replace(
            self._view(plain.depth, write_loop_filter(found) + symbols, state), loop_filter=found, context=plain.context
        )
        return min(plain, filtered, key=lambda view: view.cost)

    def _with_fitted_latent(self, plain: CodedView, refinement: LatentRefinement) -> CodedView:
        """A coded view with its latents fitted to the picture, given its loop filter, which it then lacks."""
        context = plain.context
        latent = self.model.image.analysis(pad_to_multiple(self.image, STRIDE), self.quality, context)
        loop_filter, warped = plain.loop_filter, self.model.warped_reference(context, self.size)

        def finish(decoded: Tensor) -> Tensor:
            return decoded if loop_filter is None else apply_loop_filter(decoded, loop_filter, self.level, warped)

        fitted = refine_latent(self.model.image, self.image, latent, self.level, context, refinement, finish)
        return self._code_image(plain.depth, plain.state.inverse_depth if plain.depth else None, fitted)

    def _fitted_depth(
        self,
        target: Tensor,
        prior: tuple[Tensor | None, Tensor | None],
        reference: ReferenceState,
        depth_level: int,
        refinement: DepthRefinement,
    ) -> Tensor:
        h, w = self.size
        h4, w4 = -(-h // DEPTH_FACTOR), -(-w // DEPTH_FACTOR)
        hr, wr = reference.image.shape[-2:]
        visible = disparity_and_mask(
            upsample_inverse_depth(target[:, :h4, :w4], h, w),
            self.cameras,
            upsample_inverse_depth(reference.inverse_depth, hr, wr),
            reference.cameras,
            relative_margin=CODED_DEPTH_MARGIN,
        ).mask
        prediction, mask = (None if x is None else x.float() for x in prior)
        error = WarpError(self.image, self.cameras, visible, reference.image, reference.cameras, refinement.pixels)
        return refine_inverse_depth(
            self.model.depth, target, self.level, depth_level, prediction, mask, self.size, error, refinement
        )

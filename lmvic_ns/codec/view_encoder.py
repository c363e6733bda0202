"""Encoding one view: everything that decoders never do, from choosing the depth's level to fitting latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmvic_ns.codec.depth.learned import CODED_DEPTH_MARGIN, DEPTH_FACTOR, pad_depth
from lmvic_ns.codec.depth.quadtree import QUADTREE
from lmvic_ns.codec.depth.search import QuadtreeEncoder
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.latent_refinement import LatentRefinement, refine_latent
from lmvic_ns.codec.networks.fixed_point import ONE
from lmvic_ns.codec.networks.image import STRIDE, ImageContext, fixed_coverage
from lmvic_ns.codec.networks.layers import pad_to_multiple
from lmvic_ns.codec.pictures.av1 import (
    Av1Search,
    best_av1_picture,
    difference_prediction,
    from_difference,
    to_difference,
)
from lmvic_ns.codec.pictures.hevc import HevcSearch, hevc_picture
from lmvic_ns.codec.pictures.illumination import Illumination, fit_illumination
from lmvic_ns.codec.pictures.loop_filter import LoopFilter, apply_loop_filter, fit_loop_filter, write_loop_filter
from lmvic_ns.codec.pictures.stored import cheaper_picture
from lmvic_ns.codec.quality import LEVELS, coding_noise, image_lambda
from lmvic_ns.codec.reference_pictures import ancestor_samples, choose_ancestors
from lmvic_ns.codec.symbols import SymbolWriter
from lmvic_ns.codec.view_mode import Mode, ViewMode
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask, downsample_inverse_depth, upsample_inverse_depth
from lmvic_ns.geometry.warp import warp

if TYPE_CHECKING:
    from lmvic_ns.codec.networks.model import MultiViewModel
    from lmvic_ns.codec.state import ReferenceState


@dataclass(frozen=True)
class CodedView:
    """A view as it would stand in a file.

    Attributes:
        depth: its depth part, empty without depth.
        mode: how the image is coded.
        symbols: its entropy-coded symbols, or the picture file that stands in their place.
        state: what a decoder will have.
        cost: lambda times the image's mean squared error, plus bits per pixel; infinite where the networks failed.
        loop_filter: filter of the decoded picture.
        context: what the reference told about it.
    """

    depth: bytes
    mode: ViewMode
    symbols: bytes
    state: ReferenceState
    cost: float = math.inf
    loop_filter: LoopFilter | None = None
    context: ImageContext | None = None

    @property
    def image(self) -> bytes:
        """The image part."""
        middle = b"" if self.mode.mode is Mode.STORED else write_loop_filter(self.loop_filter)
        return self.mode.to_bytes() + middle + self.symbols


_CLOSE = 1.03
_AV1_GAIN = 0.3
_FEW_BYTES = 160  # below this an HEVC picture is not tried: its headers alone take some 30


def _cost(view: CodedView) -> float:
    return view.cost


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
        self.model, self.image, self.cameras, self.level = model, image, cameras, level
        self.reference = reference if model.ablation.cross_view else None
        self.illumination: Illumination | None = None
        self.size = image.shape[-2], image.shape[-1]
        self.quality = torch.full((1,), float(level), device=image.device)
        self.weight = image_lambda(level)
        self.rounding_rate_weight = (0.0, 0.0)
        self._quadtree: QuadtreeEncoder | None = None

    def encode(self, inverse_depth: Float[Tensor, "1 h w"] | None, depth_level: int | None, effort: Effort) -> CodedView:
        """The cheapest of what this effort tries.

        Args:
            inverse_depth: normalised, at full resolution; None codes no depth.
            depth_level: quality level of the depth; None starts from the picture's (the learned codec: the reference's) and
                looks for the one that costs least as far as the effort goes.
            effort: what to try.
        """
        self.rounding_rate_weight = effort.rounding_rate_weight
        if inverse_depth is not None:
            inverse_depth = inverse_depth.double().to(self.image.device)
            if effort.illumination:
                self._match_illumination(inverse_depth)
        coded = self._with_depth(inverse_depth, depth_level, effort)
        candidates = [coded]
        if effort.alone and coded.mode.mode is Mode.PREDICTED and self._may_pay_alone(coded):
            # a reference that does not pay is not used
            candidates.append(self._code_image(coded.depth, coded.state.inverse_depth, predicted=False))
        coded = min(candidates, key=_cost)
        if effort.loop_filter:
            # the filter may turn what is close
            close = [view for view in candidates if view.cost <= _CLOSE * coded.cost]
            coded = min((self._with_loop_filter(view) for view in close), key=_cost)
        if effort.latent is not None and effort.latent.steps and math.isfinite(coded.cost):
            fitted = self._with_fitted_latent(coded, effort.latent)
            if effort.loop_filter:
                fitted = self._with_loop_filter(fitted)
            coded = min(coded, fitted, key=_cost)
        networks = coded
        if effort.hevc is not None:
            coded = self._or_hevc(coded, effort.hevc, effort.loop_filter)
        if effort.av1 is not None:
            coded = self._or_av1(coded, networks, effort.av1, effort.loop_filter)
        coded = self._or_stored(coded) if effort.stored else coded
        return self._with_coarsest_depth(coded) if effort.leaf and depth_level is None else coded

    def _may_pay_alone(self, predicted: CodedView, gain: float = 0.05) -> bool:
        """Whether the view could be cheaper without its reference, by the estimate of its bits.

        Args:
            predicted: the view with it, by the networks.
            gain: share of its cost by which the view alone may be cheaper than estimated.
        """
        if not math.isfinite(predicted.cost):
            return True
        ratio = self._estimated_bits(None) / max(self._estimated_bits(predicted.context), 1.0)
        more = 8 * len(predicted.symbols) * (ratio - 1) / (self.size[0] * self.size[1])
        return more < gain * predicted.cost

    @cached_property
    def _latent(self) -> Tensor:
        """Unit-variance latent of the view, whatever its reference."""
        return self.model.image.analysis(pad_to_multiple(self.image, STRIDE), self.quality)

    def _match_illumination(self, inverse_depth: Tensor) -> None:
        """Corrects the reference's picture where its exposure or white balance differs."""
        if self.reference is None or not self.model.ablation.alignment:
            return
        reference = self.reference
        hr, wr = reference.image.shape[-2:]
        found = disparity_and_mask(
            inverse_depth.float(),
            self.cameras,
            upsample_inverse_depth(reference.inverse_depth, hr, wr),
            reference.cameras,
            relative_margin=CODED_DEPTH_MARGIN,
        )
        aligned = warp(reference.image, found.disparity.to(reference.image.dtype))
        matched = fit_illumination(self.image, aligned, found.mask[:, None], coding_noise(self.level))
        if matched is not None:
            self.illumination = matched
            self.reference = replace(reference, image=matched.apply(reference.image))

    def _with_depth(self, inverse_depth: Tensor | None, depth_level: int | None, effort: Effort) -> CodedView:
        if inverse_depth is None:
            return self._code_image(b"", None)
        small = downsample_inverse_depth(inverse_depth, DEPTH_FACTOR)
        if effort.depth_search is not None:
            return self._as_quadtree(small[0].float(), depth_level, effort)
        prior, target = self.model.depth_prior(self.reference, self.cameras), pad_depth(small)

        def code(level: int) -> CodedView:
            writer = SymbolWriter(self.model.tables)
            decoded = self.model.code_depth(writer, self.size, level, *prior, target)
            return self._code_image(bytes([level]) + writer.finish(), decoded)

        search = depth_level is None and self.reference is not None
        if depth_level is None:
            inherited = None if self.reference is None else self.reference.depth_level
            depth_level = self.level if inherited is None else inherited
        if search and effort.depth_level_stride:
            trials = {depth_level: code(depth_level)}

            def cost(level: int) -> float:
                trials[level] = code(level)
                return trials[level].cost

            return trials[self._cheapest_level(cost, trials[depth_level].cost, depth_level, effort.depth_level_stride)]
        return code(depth_level)

    def _as_quadtree(self, target: Tensor, depth_level: int | None, effort: Effort) -> CodedView:
        """The view with its depth as the quadtree that warps best for its bits."""
        assert effort.depth_search is not None
        encoder = self.model.quadtree_encoder(self.image, self.cameras, target, self.reference, self.level, effort.depth_search)
        self._quadtree = encoder
        start = self.level if depth_level is None else depth_level
        part, depth = encoder(start)
        first = self._code_image(bytes([QUADTREE]) + part, depth)
        if not encoder.predicted or depth_level is not None or not effort.depth_level_stride or first.context is None:
            return first
        # other levels are compared by an estimate, and only the best of them is coded
        pixels, estimated = self.size[0] * self.size[1], self._estimated_bits(first.context)
        per_bit = 8 * len(first.symbols) / max(estimated, 1.0)
        known = first.cost * pixels - per_bit * estimated - 8 * len(part)
        found: dict[int, tuple[bytes, Tensor, ImageContext]] = {}

        def estimate(level: int) -> float:
            part, depth = encoder(level)
            context = self.model.decoder_context(self.reference, depth, self.cameras, self.size, self.quality)
            assert context is not None
            found[level] = part, depth, context
            return known + 8 * len(part) + per_bit * self._estimated_bits(context)

        level = self._cheapest_level(estimate, first.cost * pixels, start, effort.depth_level_stride)
        if level == start or found[level][0] == part:
            return first
        part, depth, context = found[level]
        return min(first, self._code_image(bytes([QUADTREE]) + part, depth, context=context), key=_cost)

    def _with_coarsest_depth(self, coded: CodedView) -> CodedView:
        """A view with the smallest depth part, where neither its picture nor another view uses its depth."""
        encoder = self._quadtree
        if encoder is None or not encoder.predicted or coded.mode.mode.uses_reference:
            return coded
        part, depth = encoder(0.0)
        if 1 + len(part) >= len(coded.depth):
            return coded
        return replace(coded, depth=bytes([QUADTREE]) + part, state=replace(coded.state, inverse_depth=depth))

    def _estimated_bits(self, context: ImageContext | None) -> float:
        """About how many bits the latent takes, up to a factor that a view's trials share: by its variance in 4x4 blocks."""
        entropy = self.model.image.entropy
        residual = self._latent
        if context is not None:
            residual = residual - entropy.reference_weight(self.quality) * context.latent
        symbols = residual * (entropy.gain_table[self.level].to(residual.dtype) / ONE)[None, :, None, None]
        variance = F.avg_pool2d(symbols.square(), 4, ceil_mode=True, count_include_pad=False)
        return 8.0 * float(torch.log2(1 + 8 * variance).sum())

    @staticmethod
    def _cheapest_level(cost: Callable[[int], float], best: float, start: int, stride: int) -> int:
        """Walks from a level, whose cost is `best`, by strides, upwards or else downwards, as long as it gets cheaper."""
        level = start
        for step in (stride, -stride):
            while (trial := min(max(level + step, 0), LEVELS - 1)) != level:
                trial_cost = cost(trial)
                if trial_cost >= best:
                    break
                best, level = trial_cost, trial
            if level != start:
                break
        return level

    def _code_image(
        self,
        depth: bytes,
        decoded_depth: Tensor | None,
        latents: tuple[Tensor, Tensor] | None = None,
        *,
        predicted: bool = True,
        context: ImageContext | None = None,
    ) -> CodedView:
        """The image with this depth.

        Args:
            depth: the depth part.
            decoded_depth: what decoders make of it.
            latents: as `refine_latent` gives them, in place of the analysis network's.
            predicted: use the reference, if there is one.
            context: what the reference tells with this depth, where that is known.
        """
        if context is None and predicted and depth:
            context = self.model.decoder_context(self.reference, decoded_depth, self.cameras, self.size, self.quality)
        mode = ViewMode(Mode.ALONE) if context is None else ViewMode(Mode.PREDICTED, self.illumination)
        latent, hyper = (self._latent, None) if latents is None else (latents[0], torch.round(latents[1].double()))
        writer = SymbolWriter(self.model.tables)
        coverage, prior, cross_view = self.model.image.priors(context)
        # fitted latents are where they should be
        rounding_rate_weight = 0.0 if latents is not None else self.rounding_rate_weight[context is not None]
        coded = self.model.image.entropy.compress(
            latent, self.level, writer, fixed_coverage(coverage), prior, cross_view, hyper, rounding_rate_weight
        )
        picture = self.model.reconstruct(coded, self.quality, context, self.size)
        depth_level = depth[0] if depth and depth[0] != QUADTREE else None
        state = self.model.state_of(picture, decoded_depth, self.cameras, depth_level)
        return self._priced(CodedView(depth, mode, writer.finish(), state, context=context))

    def _priced(self, view: CodedView) -> CodedView:
        """The view with its cost; what is not finite costs infinitely much, so nothing prefers it."""
        error = self._error(view)
        bits = 8 * (len(view.depth) + len(view.image)) / (self.size[0] * self.size[1])
        return replace(view, cost=self.weight * error + bits if math.isfinite(error) else math.inf)

    def _error(self, view: CodedView) -> float:
        return (view.state.image - self.image).square().mean().item()

    def _with_loop_filter(self, plain: CodedView) -> CodedView:
        """The cheaper of a coded view and the same with a loop filter."""
        warped = self.model.warped_reference(plain.context, self.size)
        found = fit_loop_filter(self.image, plain.state.image, self.level, warped)
        if found is None:
            return plain
        state = replace(plain.state, image=apply_loop_filter(plain.state.image, found, self.level, warped))
        return min(plain, self._priced(replace(plain, state=state, loop_filter=found)), key=_cost)

    def _with_fitted_latent(self, plain: CodedView, refinement: LatentRefinement) -> CodedView:
        """A coded view with its latents fitted to the picture, given its loop filter, which it then lacks."""
        context = plain.context
        loop_filter, warped = plain.loop_filter, self.model.warped_reference(context, self.size)

        def finish(decoded: Tensor) -> Tensor:
            return decoded if loop_filter is None else apply_loop_filter(decoded, loop_filter, self.level, warped)

        fitted = refine_latent(self.model.image, self.image, self._latent, self.level, context, refinement, finish)
        depth = plain.state.inverse_depth if plain.depth else None
        return self._code_image(plain.depth, depth, fitted, predicted=context is not None)

    def _or_av1(self, coded: CodedView, networks: CodedView, search: Av1Search, loop_filter: bool) -> CodedView:
        """The view as an AV1 picture, or as one of its difference from the reference, where that is cheaper.

        Args:
            coded: the cheapest so far.
            networks: the same view by the networks, which tell whether its reference helps.
            search: how hard to look.
            loop_filter: fit one to each picture that is close.
        """
        has_reference = self.reference is not None and bool(coded.depth)
        if has_reference and not search.predicted and coded.mode.mode.uses_reference:
            return coded
        alone = networks.mode.mode is not Mode.PREDICTED or self._may_pay_alone(networks, _AV1_GAIN)
        found = [self._as_av1(networks, search, None)] if alone else []
        if has_reference and search.predicted and coded.mode.mode is not Mode.HEVC:  # which does the same, better
            found.append(self._as_av1(coded, search, self._context_of(coded)))
        pictures = [view for view in found if view is not None]
        if loop_filter:
            pictures = [self._with_loop_filter(view) if view.cost <= _CLOSE * coded.cost else view for view in pictures]
        return min([coded, *pictures], key=_cost)

    def _as_av1(self, coded: CodedView, search: Av1Search, context: ImageContext | None) -> CodedView | None:
        """The view with the same depth as an AV1 picture; None if that is far from paying."""
        warped = self.model.warped_reference(context, self.size)
        prediction = None if warped is None else difference_prediction(warped.image, warped.mask).to(self.image.dtype)

        def decoded(picture: Tensor) -> Tensor:
            picture = picture.to(self.image.device, self.image.dtype)
            return picture if prediction is None else from_difference(picture, prediction)

        target = self.image if prediction is None else to_difference(self.image, prediction)
        found = best_av1_picture(
            target,
            self.weight,
            search,
            lambda picture: (decoded(picture) - self.image).square().mean().item(),
            coded.cost - 8 * len(coded.depth) / (self.size[0] * self.size[1]),
            (coded.state.image - self.image).square(),
        )
        if found is None:
            return None
        mode = ViewMode(Mode.AV1) if context is None else ViewMode(Mode.AV1_DIFFERENCE, self.illumination)
        state = replace(coded.state, image=decoded(found.image))
        return self._priced(CodedView(coded.depth, mode, found.data, state, context=context))

    def _or_hevc(self, coded: CodedView, search: HevcSearch, loop_filter: bool) -> CodedView:
        """The view with the same depth as an HEVC P picture where that is cheaper."""
        if self.reference is None or not coded.depth or len(coded.image) < _FEW_BYTES:
            return coded
        context, reference = self._context_of(coded), self.reference
        depth = coded.state.inverse_depth
        aligned = context.aligned[..., : self.size[0], : self.size[1]]
        noise = coding_noise(self.level)
        further = choose_ancestors(self.image, aligned, reference.ancestors, depth, self.cameras, noise, search.ancestors)
        samples = ancestor_samples(further, reference.ancestors, depth, self.cameras, self.size, self.image.dtype)
        found = hevc_picture(
            self.image, [*samples, *self.model.hevc_references(reference, context, self.size)], self.weight, search
        )
        if found is None:
            return coded
        state = replace(coded.state, image=found.image.to(self.image.device, self.image.dtype))
        mode = ViewMode(Mode.HEVC_ANCESTORS if further else Mode.HEVC, self.illumination, further)
        view = self._priced(CodedView(coded.depth, mode, found.data, state, context=context))
        if loop_filter and view.cost <= _CLOSE * coded.cost:
            view = self._with_loop_filter(view)
        return min(coded, view, key=_cost)

    def _context_of(self, coded: CodedView) -> ImageContext:
        """What the reference tells with this depth, also where the view is coded without it."""
        if coded.context is not None:
            return coded.context
        depth = coded.state.inverse_depth
        context = self.model.decoder_context(self.reference, depth, self.cameras, self.size, self.quality)
        assert context is not None
        return context

    def _or_stored(self, coded: CodedView) -> CodedView:
        """The view as an ordinary picture where that is cheaper, or where the networks failed."""
        error = self._error(coded) if math.isfinite(coded.cost) else math.inf
        # both have a depth part, whatever the image is
        cost = coded.cost - 8 * len(coded.depth) / (self.size[0] * self.size[1])
        found = cheaper_picture(self.image, self.weight, cost, error, len(coded.image))
        if found is None:
            return coded
        picture = found.image.to(self.image.device, self.image.dtype)
        state = replace(coded.state, image=picture)
        return self._priced(CodedView(coded.depth, ViewMode(Mode.STORED), found.data, state))

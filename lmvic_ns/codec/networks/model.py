"""The practical multi-view codec network: depth, geometry and image of one view at a time (presets `base` and `tiny`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from lmvic_ns.bitstream.tables import CdfTables
from lmvic_ns.codec.depth.learned import DEPTH_FACTOR, DEPTH_STRIDE, DepthCodec, fixed_depth, pad_depth
from lmvic_ns.codec.depth.quadtree import QUADTREE, integer_prediction, read_depth
from lmvic_ns.codec.depth.root_costs import error_costs
from lmvic_ns.codec.depth.search import LEAF, DepthSearch, QuadtreeEncoder, WarpCosts
from lmvic_ns.codec.effort import Effort
from lmvic_ns.codec.networks.config import ModelConfig
from lmvic_ns.codec.networks.image import STRIDE, ImageCodec, ImageContext, fixed_coverage
from lmvic_ns.codec.networks.layers import pad_to_multiple
from lmvic_ns.codec.networks.precision import full_float32
from lmvic_ns.codec.networks.rates import scale_tables
from lmvic_ns.codec.pictures.av1 import difference_prediction, from_difference, read_av1_picture
from lmvic_ns.codec.pictures.hevc import read_hevc_picture, to_samples
from lmvic_ns.codec.pictures.loop_filter import WarpedReference, apply_loop_filter, read_loop_filter
from lmvic_ns.codec.pictures.stored import read_stored_picture
from lmvic_ns.codec.quality import LEVELS, coding_noise
from lmvic_ns.codec.reference_pictures import ancestor_samples, correspondence
from lmvic_ns.codec.state import ReferenceState, ViewOutput
from lmvic_ns.codec.symbols import SymbolReader, SymbolWriter
from lmvic_ns.codec.view_encoder import ViewEncoder
from lmvic_ns.codec.view_mode import Mode, read_view_mode
from lmvic_ns.errors import BitstreamError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import downsample_inverse_depth
from lmvic_ns.geometry.prediction import predict_inverse_depth
from lmvic_ns.geometry.warp import warp


class MultiViewModel(nn.Module):
    """Codec of depth and of images as differences from their reference; one set of weights for all quality levels.

    Inverse depth is normalised: scene units times the scene's `depth_scale`, so that it lies in 0..1 and 0 is infinity.
    Cameras are given in units in which depth is 1 / normalised inverse depth (their translations are multiplied
    accordingly; `Cameras` of a scene and a scale give them).
    """

    levels = LEVELS
    table_cdf: Tensor
    table_sizes: Tensor
    table_offsets: Tensor

    def __init__(self, config: ModelConfig | None = None):
        super().__init__()
        self.config = config or ModelConfig()
        self.ablation = self.config.ablation
        self.image = ImageCodec(self.config.image)
        self.depth = DepthCodec(self.config.depth)
        tables = scale_tables()
        self.register_buffer("table_cdf", torch.from_numpy(tables.cdf.copy()))
        self.register_buffer("table_sizes", torch.from_numpy(tables.sizes.copy()))
        self.register_buffer("table_offsets", torch.from_numpy(tables.offsets.copy()))

    @property
    def tables(self) -> CdfTables:
        """The integer probability tables of these weights."""
        return CdfTables(self.table_cdf.cpu().numpy(), self.table_sizes.cpu().numpy(), self.table_offsets.cpu().numpy())

    def update(self) -> None:
        """Derives the integer tables that (de)compression uses from the learned parameters (CompressAI's convention)."""
        self.image.entropy.update()
        self.depth.entropy.update()

    # --- training -------------------------------------------------------------------------------------------------

    def forward(self, image: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b"]) -> ViewOutput:
        """Same as `forward_photo`."""
        return self.forward_photo(image, level)

    def forward_photo(self, image: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b"]) -> ViewOutput:
        """Intra path: a photograph without geometry.

        Args:
            image: 0..1, any size.
            level: quality level of each sample, 0..63.
        """
        decoded, bits = self._forward_image(image, level, None)
        return ViewOutput(decoded, bits, None, torch.zeros_like(bits), None, None)

    def forward_aligned(
        self,
        image: Float[Tensor, "b 3 h w"],
        aligned: Float[Tensor, "b 3 h w"],
        mask: Float[Tensor, "b 1 h w"],
        level: Float[Tensor, "b"],
    ) -> ViewOutput:
        """A view whose warped reference is given, without geometry.

        Args:
            image: 0..1, sides multiples of 64.
            aligned: decoded reference as it lies over the view, 0..1.
            mask: 1 where it shows the same.
            level: quality level of each sample.
        """
        decoded, bits = self._forward_image(image, level, self.image.context(aligned, mask, level))
        return ViewOutput(decoded, bits, None, torch.zeros_like(bits), None, None)

    def forward_view(
        self,
        image: Float[Tensor, "b 3 h w"],
        inverse_depth: Float[Tensor, "b h w"],
        cameras: Cameras,
        reference: ReferenceState | None,
        level: Float[Tensor, "b"],
        keep: Tensor | None = None,
        depth_trust: Float[Tensor, "b"] | None = None,
        depth_search: DepthSearch | None = None,
        given_depth: bool = False,
    ) -> ViewOutput:
        """One view of a chain.

        Args:
            image: 0..1.
            inverse_depth: normalised, at full resolution.
            cameras: of these views, translations in normalised units.
            reference: state of the view before, or None.
            level: quality level of each sample.
            keep: False drops that sample's reference (so that first views stay good).
            depth_trust: how far the image's geometry goes from the decoded depth (0, the default) towards the true one (1):
                encoders refine depth for the warp, which is better than what this pass decodes.
            depth_search: code depth as files do, as the quadtree that this finds, instead of by the learned depth codec; then
                `depth_trust` is not used, and depth has no gradient.
            given_depth: take the depth as it is, at no cost: fast on a GPU, where the search for a quadtree is not.
        """
        if not self.ablation.cross_view:
            reference = None
        target = downsample_inverse_depth(inverse_depth.double(), DEPTH_FACTOR).float()
        h, w = image.shape[-2:]
        if given_depth or depth_search is not None:
            exact, depth_bits = fixed_depth(target), torch.zeros_like(level)
            if depth_search is not None and not given_depth:
                exact, depth_bits = self._quadtree_depth(image, target, cameras, reference, level, keep, depth_search)
            decoded_depth = exact.float()
        else:
            decoded_depth, depth_bits = self._learned_depth(target, cameras, reference, level, keep)
            # the image learns with the depth that decoders have; its gradient does not reach the depth codec
            geometry = decoded_depth.detach()
            if depth_trust is not None:
                geometry = geometry + depth_trust[:, None, None] * (target - geometry)
            exact = fixed_depth(geometry)
        context = None if reference is None else self._context(reference, exact, cameras, (h, w), level, keep)
        decoded, bits = self._forward_image(image, level, context)
        state = ReferenceState(decoded, exact, cameras)
        return ViewOutput(decoded, bits, decoded_depth, depth_bits, target, state)

    def _learned_depth(
        self, target: Tensor, cameras: Cameras, reference: ReferenceState | None, level: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        h4, w4 = target.shape[-2:]
        prediction = mask = None
        if reference is not None and self.ablation.depth_prediction:
            prediction, mask = self._predict(reference, cameras)
            prediction, mask = pad_depth(prediction).float(), pad_depth(mask.float())
            if keep is not None:
                mask = mask * keep[:, None, None].to(mask.dtype)
        depth = self.depth(pad_depth(target), level, prediction, mask)
        return depth.inverse_depth[:, :h4, :w4], depth.bits

    @torch.no_grad()
    def _quadtree_depth(
        self,
        image: Tensor,
        target: Tensor,
        cameras: Cameras,
        reference: ReferenceState | None,
        level: Tensor,
        keep: Tensor | None,
        search: DepthSearch,
    ) -> tuple[Tensor, Tensor]:
        """Each sample's depth as its file would hold it, and the bits of that."""
        maps, bits = [], []
        for n in range(len(image)):
            one = slice(n, n + 1)
            alone = reference is None or (keep is not None and not bool(keep[n]))
            parent = None if reference is None or alone else reference.sample(n)
            encoder = self.quadtree_encoder(image[one], cameras[n], target[n], parent, float(level[n]), search)
            part, depth = encoder(float(level[n]))
            maps.append(depth)
            bits.append(8.0 * (1 + len(part)))
        return torch.cat(maps), torch.tensor(bits, device=image.device)

    def _forward_image(self, image: Tensor, level: Tensor, context: ImageContext | None) -> tuple[Tensor, Tensor]:
        h, w = image.shape[-2:]
        padded = pad_to_multiple(image, STRIDE).contiguous(memory_format=torch.channels_last)
        latent = self.image.analysis(padded, level)
        coded = self.image.entropy(latent, level, *self.image.priors(context))
        decoded = self.image.synthesis(coded.latent.to(latent.dtype), level, context)
        return decoded[..., :h, :w].float(), coded.latent_bits + coded.hyper_bits

    # --- geometry -------------------------------------------------------------------------------------------------

    def _predict(self, reference: ReferenceState, cameras: Cameras) -> tuple[Tensor, Tensor]:
        return predict_inverse_depth(
            reference.inverse_depth, reference.cameras.coarsen(DEPTH_FACTOR), cameras.coarsen(DEPTH_FACTOR)
        )

    def _context(
        self,
        reference: ReferenceState,
        inverse_depth: Tensor,
        cameras: Cameras,
        size: tuple[int, int],
        level: Float[Tensor, "b"],
        keep: Tensor | None = None,
    ) -> ImageContext:
        """The cross-view prediction from both views' decoded depth; nothing of it counts where `keep` is False."""
        h, w = size
        dtype = reference.image.dtype
        if self.ablation.alignment:
            source_size = reference.image.shape[-2], reference.image.shape[-1]
            disparity, mask = correspondence(inverse_depth, cameras, size, reference.cameras, source_size)
        else:
            disparity = reference.image.new_zeros(reference.image.shape[0], h, w, 2, dtype=torch.float32)
            mask = torch.ones(disparity.shape[0], 1, h, w, dtype=torch.bool, device=disparity.device)
        if not self.ablation.masks:
            mask = torch.ones_like(mask)
        mask = mask.to(dtype)
        if keep is not None:
            mask = mask * keep[:, None, None, None].to(dtype)
        aligned = pad_to_multiple(warp(reference.image, disparity.to(dtype)), STRIDE)
        mask = F.pad(mask, (0, -w % STRIDE, 0, -h % STRIDE))
        return self.image.context(aligned.contiguous(memory_format=torch.channels_last), mask, level)

    # --- coding ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    @full_float32()
    def compress(
        self,
        image: Float[Tensor, "1 3 h w"],
        inverse_depth: Float[Tensor, "1 h w"] | None,
        cameras: Cameras,
        reference: ReferenceState | None,
        level: int,
        depth_level: int | None = None,
        effort: Effort | None = None,
    ) -> tuple[bytes, bytes, ReferenceState]:
        """Codes one view.

        Args:
            image: 0..1.
            inverse_depth: normalised, at full resolution; None codes no depth (then no view may refer to this one).
            cameras: of the view, as the decoder will have them.
            reference: state of the decoded parent, or None.
            level: quality level of the image.
            depth_level: quality level of the depth; by default what `effort` finds, else `level` (the learned codec: the
                reference's).
            effort: what to try for this view, keeping what costs least; by default nothing.

        Returns:
            The depth part (empty without depth), the image part, and the state that a decoder will have.
        """
        image = image.to(self.table_cdf.device, self._dtype)
        coded = ViewEncoder(self, image, cameras, reference, level).encode(inverse_depth, depth_level, effort or Effort())
        return coded.depth, coded.image, coded.state.below(reference)

    @torch.no_grad()
    @full_float32()
    def decompress(
        self,
        depth: bytes,
        image: bytes,
        size: tuple[int, int],
        cameras: Cameras,
        reference: ReferenceState | None,
        level: int,
        name: str = "view",
    ) -> ReferenceState:
        """Decodes what `compress` wrote.

        Raises:
            BitstreamError: a part is damaged; the message names the view and the part.
        """
        return self._decompress(depth, image, size, cameras, reference, level, name).below(reference)

    def _decompress(
        self,
        depth: bytes,
        image: bytes,
        size: tuple[int, int],
        cameras: Cameras,
        reference: ReferenceState | None,
        level: int,
        name: str,
    ) -> ReferenceState:
        h, w = size
        device = self.table_cdf.device
        decoded_depth = depth_level = None
        if depth and depth[0] == QUADTREE:
            map_size = -(-h // DEPTH_FACTOR), -(-w // DEPTH_FACTOR)
            prediction = self.quadtree_prediction(reference, cameras)
            decoded_depth = read_depth(depth[1:], map_size, prediction, f"{name}: depth part", device)
        elif depth:
            depth_level = depth[0]
            if depth_level >= LEVELS:
                raise BitstreamError(
                    f"{name}: depth part: expected a quality 0..{LEVELS - 1} or {QUADTREE} (quadtree), found {depth_level}"
                )
            reader = SymbolReader(depth[1:], self.tables, f"{name}: depth part")
            decoded_depth = self.code_depth(reader, size, depth_level, *self.depth_prior(reference, cameras), None)
            reader.finish()
        part = f"{name}: image part"
        generations = 0 if reference is None else len(reference.ancestors)
        mode, data = read_view_mode(image, reference is not None and decoded_depth is not None, part, generations)
        if mode.mode is Mode.STORED:
            picture = read_stored_picture(data, size, part).to(device, self._dtype)
            return self.state_of(picture, decoded_depth, cameras, depth_level)
        quality = torch.full((1,), float(level), device=device)
        context = None
        if mode.mode.uses_reference:
            assert reference is not None  # `read_view_mode` has seen to it
            if mode.illumination is not None:
                reference = replace(reference, image=mode.illumination.apply(reference.image))
            context = self.decoder_context(reference, decoded_depth, cameras, size, quality)
        loop_filter, data = read_loop_filter(data, context is not None, part)
        warped = self.warped_reference(context, size)
        if mode.mode in (Mode.AV1, Mode.AV1_DIFFERENCE):
            picture = read_av1_picture(data, size, part).to(device, self._dtype)
            if warped is not None:
                picture = from_difference(picture, difference_prediction(warped.image, warped.mask))
        elif mode.mode in (Mode.HEVC, Mode.HEVC_ANCESTORS) and reference is not None and context is not None:
            assert decoded_depth is not None  # as above
            further = ancestor_samples(mode.ancestors, reference.ancestors, decoded_depth, cameras, size, self._dtype)
            references = [*further, *self.hevc_references(reference, context, size)]
            picture = read_hevc_picture(data, references, size, part).to(device, self._dtype)
        else:
            picture = self._read_latent(data, part, size, level, context)
        if loop_filter is not None:
            picture = apply_loop_filter(picture, loop_filter, level, warped)
        return self.state_of(picture, decoded_depth, cameras, depth_level)

    def _read_latent(
        self, data: bytes, part: str, size: tuple[int, int], level: int, context: ImageContext | None
    ) -> Float[Tensor, "1 3 h w"]:
        """The picture of an image part's symbols, before the loop filter."""
        h, w = size
        quality = torch.full((1,), float(level), device=self.table_cdf.device)
        reader = SymbolReader(data, self.tables, part)
        coverage, prior, cross_view = self.image.priors(context)
        latent_size = (h + -h % STRIDE) // 16, (w + -w % STRIDE) // 16
        coded = self.image.entropy.code(latent_size, level, reader, fixed_coverage(coverage), prior, cross_view)
        reader.finish()
        return self.reconstruct(coded, quality, context, size)

    @staticmethod
    def is_stored(image: bytes) -> bool:
        """Whether an image part holds an ordinary picture in place of symbols."""
        return image[:1] == bytes([Mode.STORED])

    @property
    def _dtype(self) -> torch.dtype:
        return self.image.analysis_in.weight.dtype

    def decoder_context(
        self,
        reference: ReferenceState | None,
        decoded_depth: Tensor | None,
        cameras: Cameras,
        size: tuple[int, int],
        quality: Float[Tensor, "1"],
    ) -> ImageContext | None:
        """Features of the warped reference with corrected illumination, by the decoded depth; None without a reference."""
        if reference is None or decoded_depth is None or not self.ablation.cross_view:
            return None
        return self._context(reference, decoded_depth, cameras, size, quality)

    @staticmethod
    def warped_reference(context: ImageContext | None, size: tuple[int, int]) -> WarpedReference | None:
        """What the loop filter sees of the reference, without padding."""
        h, w = size
        return None if context is None else WarpedReference(context.aligned[..., :h, :w], context.mask[..., :h, :w])

    @staticmethod
    def hevc_references(
        reference: ReferenceState, context: ImageContext, size: tuple[int, int]
    ) -> list[UInt8[np.ndarray, "3 h w"]]:
        """Samples of the pictures that an HEVC picture refers to: the reference as it is, and warped."""
        return [to_samples(picture, size) for picture in (reference.image, context.aligned[..., : size[0], : size[1]])]

    def depth_prior(self, reference: ReferenceState | None, cameras: Cameras) -> tuple[Tensor | None, Tensor | None]:
        """Padded depth prediction (10) and its mask in float64; None without a reference."""
        found = self._prediction(reference, cameras)
        return (None, None) if found is None else (pad_depth(found[0]), pad_depth(found[1].double()))

    def quadtree_prediction(self, reference: ReferenceState | None, cameras: Cameras) -> Tensor | None:
        """Depth prediction (10) as the quadtree takes it; None without a reference."""
        found = self._prediction(reference, cameras)
        return None if found is None else integer_prediction(*found)

    def quadtree_encoder(
        self,
        image: Float[Tensor, "1 3 h w"],
        cameras: Cameras,
        target: Float[Tensor, "h4 w4"],
        reference: ReferenceState | None,
        level: float,
        search: DepthSearch,
    ) -> QuadtreeEncoder:
        """Encoder of a view's depth (`target`, normalised) beside its decoded reference."""
        prediction = self.quadtree_prediction(reference, cameras)
        if reference is None or prediction is None:
            errors = None
            if search.children:
                noise = coding_noise(level)
                errors = error_costs(image, cameras, search.children, target, search.root_step, noise, LEAF)
            return QuadtreeEncoder(target, search, errors=errors)
        shown = reference.image.float().clamp(0, 1)
        warp = WarpCosts(image, cameras, shown, reference.cameras, prediction, coding_noise(level))
        return QuadtreeEncoder(target, search, warp, prediction)

    def _prediction(self, reference: ReferenceState | None, cameras: Cameras) -> tuple[Tensor, Tensor] | None:
        if reference is None or not self.ablation.cross_view or not self.ablation.depth_prediction:
            return None
        return self._predict(reference, cameras)

    def code_depth(
        self,
        coder: SymbolWriter | SymbolReader,
        size: tuple[int, int],
        level: int,
        prediction: Tensor | None,
        mask: Tensor | None,
        target: Tensor | None,
    ) -> Tensor:
        """Depth as decoders have it: writes `target`, or reads; the prior is that of `depth_prior`."""
        h4, w4 = -(-size[0] // DEPTH_FACTOR), -(-size[1] // DEPTH_FACTOR)
        padded = (h4 + -h4 % DEPTH_STRIDE, w4 + -w4 % DEPTH_STRIDE)
        return self.depth.code(padded, level, coder, prediction, mask, target)[:, :h4, :w4]

    def reconstruct(
        self, latent: Tensor, quality: Tensor, context: ImageContext | None, size: tuple[int, int]
    ) -> Float[Tensor, "1 3 h w"]:
        """The decoded picture, 0..1, from its latent and its context."""
        decoded = self.image.synthesis(latent.to(self._dtype), quality, context)
        return decoded[..., : size[0], : size[1]].clamp(0, 1)

    @staticmethod
    def state_of(
        picture: Float[Tensor, "1 3 h w"], decoded_depth: Tensor | None, cameras: Cameras, depth_level: int | None
    ) -> ReferenceState:
        """What later views need of a decoded one."""
        if decoded_depth is None:
            h4, w4 = (-(-n // DEPTH_FACTOR) for n in picture.shape[-2:])
            decoded_depth = torch.zeros(1, h4, w4, dtype=torch.float64, device=picture.device)
        return ReferenceState(picture, decoded_depth, cameras, depth_level)

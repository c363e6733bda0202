"""The `paper` preset: one view at a time from its reference, and chains of views for training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.errors import BitstreamError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask
from lmvic_ns.geometry.prediction import predict_inverse_depth
from lmvic_ns.paper.config import PaperConfig
from lmvic_ns.paper.depth import DepthCodec
from lmvic_ns.paper.image import ImageCodec
from lmvic_ns.paper.layers import ViewContext, pad_to_grid, padded_size
from lmvic_ns.paper.views import ReferenceState, ViewOutput, inverse_of_normalised, normalised_depth


class PaperCodec(CompressionModel):
    """3D-LMVIC as published: image and depth codecs that share nothing but the geometry between them.

    Every method takes `depth_scale`, the scene's scale that depth is divided by (one number; for training, also one for
    each sample). CompressAI's conventions hold: `update()` makes the integer probability tables, which the state dict
    keeps; `aux_loss()` trains the quantiles.
    """

    def __init__(self, config: PaperConfig | None = None) -> None:
        super().__init__()
        self.config = config or PaperConfig()
        self.image = ImageCodec(self.config)
        self.depth = DepthCodec(self.config)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Restores the weights and the entropy tables, also over tables of another size."""
        for name, module in self.named_modules():
            if isinstance(module, EntropyModel):
                for buffer, value in list(module.named_buffers(recurse=False)):
                    given = state_dict.get(f"{name}.{buffer}")
                    if given is not None and given.shape != value.shape:  # CompressAI resizes empty tables only
                        setattr(module, buffer, torch.empty_like(given, device=value.device))
        return super().load_state_dict(state_dict, strict=strict)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.depth.cross_view_prior.weight.device

    # --- what runs where ------------------------------------------------------------------------------------------

    def _shared_parts(self) -> list[nn.Module]:
        parts: list[nn.Module] = [self.image.reference_features, self.image.cross_view_prior]
        parts += [self.depth.prediction_features, self.depth.cross_view_prior, self.depth.decoder]
        parts += [e for e in (self.image.mask_extractor, self.depth.mask_extractor) if e is not None]
        return parts + self.image.entropy.decoder_parts() + self.depth.entropy.decoder_parts()

    def encoder_side(self) -> list[nn.Module]:
        """Modules that the published encoder totals count: the depth decoder is in the loop, the image decoder is not."""
        analyses = [self.image.entropy.hyper_analysis, self.depth.entropy.hyper_analysis]
        return [self.image.encoder, self.depth.encoder, *analyses, *self._shared_parts()]

    def decoder_side(self) -> list[nn.Module]:
        """Modules that decoding runs."""
        return [self.image.decoder, *self._shared_parts()]

    # --- one view -------------------------------------------------------------------------------------------------

    def forward_view(
        self,
        image: Float[Tensor, "b 3 h w"],
        inverse_depth: Float[Tensor, "b h w"],
        cameras: Cameras,
        reference: ReferenceState | None,
        *,
        depth_scale: float | Tensor = 1.0,
    ) -> ViewOutput:
        """Reconstructions, likelihoods and estimated bits: noise while training, rounding in evaluation mode.

        Args:
            image: 0..1, any size.
            inverse_depth: 1 / z in scene units; 0 = infinitely far or unknown.
            cameras: one for each sample, at the image's size.
            reference: an already coded view; None: nothing to refer to.
            depth_scale: the scene's.
        """
        height, width = image.shape[-2:]
        reference = reference if self.config.cross_view else None
        depth = normalised_depth(inverse_depth, depth_scale, self.config.max_depth)
        depth_context = self._depth_context(cameras, reference, depth_scale, len(image))
        depth_out = self.depth.entropy(self.depth.encoder(pad_to_grid(depth[:, None]), depth_context), depth_context)
        depth_hat, inverse_depth_hat = self._finish_depth(depth_out.latent, depth_context, (height, width), depth_scale)

        context = self._image_context(inverse_depth_hat, cameras, reference)
        image_out = self.image.entropy(self.image.encoder(pad_to_grid(image), context), context)
        image_hat, features = self._finish_image(image_out.latent, context, (height, width))
        likelihoods = {f"image_{key}": value for key, value in image_out.likelihoods.items()}
        likelihoods |= {f"depth_{key}": value for key, value in depth_out.likelihoods.items()}
        return ViewOutput(
            image_hat=image_hat,
            depth=depth,
            depth_hat=depth_hat,
            inverse_depth_hat=inverse_depth_hat,
            likelihoods=likelihoods,
            image_bits=image_out.bits,
            depth_bits=depth_out.bits,
            state=ReferenceState(image_hat, features, inverse_depth_hat, cameras),
        )

    @torch.no_grad()
    def compress_view(
        self,
        image: Float[Tensor, "1 3 h w"],
        inverse_depth: Float[Tensor, "1 h w"] | None,
        cameras: Cameras,
        reference: ReferenceState | None,
        *,
        depth_scale: float = 1.0,
    ) -> tuple[bytes, bytes, ReferenceState]:
        """The depth part, the image part, and what the decoder will have. Arguments as in `forward_view`, a batch of one.

        A photograph without depth (None) has an empty depth part and counts as infinitely far; it refers to nothing.

        Raises:
            ValueError: more than one view, a reference without depth, or the model is in training mode.
            WeightsError: `update()` was not run.
        """
        self._check_single(len(image))
        size = image.shape[-2], image.shape[-1]
        reference = reference if self.config.cross_view else None
        depth_bytes, inverse_depth_hat = b"", image.new_zeros(1, *size)
        if inverse_depth is not None:
            depth = normalised_depth(inverse_depth, depth_scale, self.config.max_depth)
            depth_context = self._depth_context(cameras, reference, depth_scale, 1)
            latent = self.depth.encoder(pad_to_grid(depth[:, None]), depth_context)
            depth_bytes, latent = self.depth.entropy.compress(latent, depth_context)
            _, inverse_depth_hat = self._finish_depth(latent, depth_context, size, depth_scale)
        elif reference is not None:
            raise ValueError("a view without depth cannot refer to another one")

        context = self._image_context(inverse_depth_hat, cameras, reference)
        latent = self.image.encoder(pad_to_grid(image), context)
        image_bytes, latent = self.image.entropy.compress(latent, context)
        image_hat, features = self._finish_image(latent, context, size)
        return depth_bytes, image_bytes, ReferenceState(image_hat, features, inverse_depth_hat, cameras)

    @torch.no_grad()
    def decompress_view(
        self,
        depth_bytes: bytes,
        image_bytes: bytes,
        height: int,
        width: int,
        cameras: Cameras,
        reference: ReferenceState | None,
        *,
        depth_scale: float = 1.0,
        name: str = "view",
    ) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 h w"], ReferenceState]:
        """Image (0..1), inverse depth (scene units), and the state for views that refer to this one.

        `name` is what error messages call the view. A wrong reference need not be noticed: the streams hold residuals.

        Raises:
            ValueError: more than one camera, or the model is in training mode.
            BitstreamError: a part is damaged; the message names the view and the part.
            WeightsError: `update()` was not run.
        """
        self._check_single(len(cameras))
        reference = reference if self.config.cross_view else None
        latent_size = padded_size(height, width)[0] // 16, padded_size(height, width)[1] // 16
        inverse_depth_hat = torch.zeros(1, height, width, device=self.device)
        if depth_bytes:
            depth_context = self._depth_context(cameras, reference, depth_scale, 1)
            latent = self.depth.entropy.decompress(depth_bytes, latent_size, depth_context, name=f"{name}: depth part")
            _, inverse_depth_hat = self._finish_depth(latent, depth_context, (height, width), depth_scale)
        elif reference is not None:
            raise BitstreamError(f"{name}: depth part: expected one, since the view refers to another one")

        context = self._image_context(inverse_depth_hat, cameras, reference)
        latent = self.image.entropy.decompress(image_bytes, latent_size, context, name=f"{name}: image part")
        image_hat, features = self._finish_image(latent, context, (height, width))
        return image_hat, inverse_depth_hat, ReferenceState(image_hat, features, inverse_depth_hat, cameras)

    # --- chains of views: CompressAI's conventions ----------------------------------------------------------------

    def forward(
        self,
        images: Float[Tensor, "b v 3 h w"],
        inverse_depths: Float[Tensor, "b v h w"],
        cameras: Sequence[Cameras],
        *,
        depth_scale: float | Tensor = 1.0,
    ) -> dict[str, Any]:
        """Codes each view with the one before it as its reference, back-propagated as one chain.

        Returns:
            "x_hat" [b, v, 3, h, w], "depth_hat" [b, v, h, w] (normalised), "likelihoods": for each kind a tensor
            [b, v, ...], and "views": the `ViewOutput` of each view.
        """
        views: list[ViewOutput] = []
        reference = None
        for index, camera in enumerate(cameras):
            view = self.forward_view(images[:, index], inverse_depths[:, index], camera, reference, depth_scale=depth_scale)
            views.append(view)
            reference = view.state
        return {
            "x_hat": torch.stack([view.image_hat for view in views], 1),
            "depth_hat": torch.stack([view.depth_hat for view in views], 1),
            "likelihoods": {key: torch.stack([view.likelihoods[key] for view in views], 1) for key in views[0].likelihoods},
            "views": views,
        }

    def compress(
        self,
        images: Sequence[Float[Tensor, "3 h w"]],
        inverse_depths: Sequence[Float[Tensor, "h w"]],
        cameras: Cameras,
        *,
        depth_scale: float = 1.0,
    ) -> dict[str, Any]:
        """A chain of views, each possibly of its own size.

        Returns:
            "strings": (depth part, image part) of each view; "shape": (height, width) of each.
        """
        strings: list[tuple[bytes, bytes]] = []
        reference = None
        for index, (image, inverse_depth) in enumerate(zip(images, inverse_depths, strict=True)):
            depth_bytes, image_bytes, reference = self.compress_view(
                image[None], inverse_depth[None], cameras[index], reference, depth_scale=depth_scale
            )
            strings.append((depth_bytes, image_bytes))
        return {"strings": strings, "shape": [(image.shape[-2], image.shape[-1]) for image in images]}

    def decompress(
        self,
        strings: Sequence[tuple[bytes, bytes]],
        shape: Sequence[tuple[int, int]],
        cameras: Cameras,
        *,
        depth_scale: float = 1.0,
    ) -> dict[str, Any]:
        """Inverse of `compress`: "x_hat" and "inverse_depth_hat", a list with one tensor a view."""
        images: list[Tensor] = []
        inverse_depths: list[Tensor] = []
        reference = None
        for index, ((depth_bytes, image_bytes), (height, width)) in enumerate(zip(strings, shape, strict=True)):
            image, inverse_depth, reference = self.decompress_view(
                depth_bytes, image_bytes, height, width, cameras[index], reference, depth_scale=depth_scale
            )
            images.append(image[0])
            inverse_depths.append(inverse_depth[0])
        return {"x_hat": images, "inverse_depth_hat": inverse_depths}

    # --- shared by encoder and decoder ----------------------------------------------------------------------------

    def _depth_context(
        self, cameras: Cameras, reference: ReferenceState | None, depth_scale: float | Tensor, batch: int
    ) -> ViewContext:
        height, width = cameras.size
        if reference is None or not self.config.depth_prediction:
            prediction = mask = torch.zeros(batch, height, width, device=self.device)
        else:
            predicted, covered = predict_inverse_depth(reference.inverse_depth, reference.cameras, cameras)
            mask = covered.float()
            prediction = normalised_depth(predicted, depth_scale, self.config.max_depth) * mask
        return self.depth.context(pad_to_grid(prediction[:, None]), pad_to_grid(mask[:, None]))

    def _finish_depth(
        self, latent: Tensor, context: ViewContext, size: tuple[int, int], depth_scale: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        depth = self.depth.decoder(latent, context)[:, 0, : size[0], : size[1]]
        depth = self._clamp(depth, self.config.min_depth, self.config.max_depth)
        return depth, inverse_of_normalised(depth, depth_scale)

    def _image_context(self, inverse_depth: Tensor, cameras: Cameras, reference: ReferenceState | None) -> ViewContext:
        batch, height, width = inverse_depth.shape
        if reference is None:
            padded = padded_size(height, width)
            mask = inverse_depth.new_zeros(batch, 1, *padded)
            return self.image.context(inverse_depth.new_zeros(batch, 3, *padded), None, None, mask)
        geometry = disparity_and_mask(inverse_depth, cameras, reference.inverse_depth, reference.cameras)
        disparity = None
        if self.config.alignment:
            disparity = pad_to_grid(geometry.disparity.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mask = pad_to_grid(geometry.mask[:, None].float())
        return self.image.context(pad_to_grid(reference.image), reference.features, disparity, mask)

    def _finish_image(
        self, latent: Tensor, context: ViewContext, size: tuple[int, int]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        image, features = self.image.decoder(latent, context)
        return self._clamp(image[..., : size[0], : size[1]], 0.0, 1.0), features

    def _clamp(self, x: Tensor, low: float, high: float) -> Tensor:
        if self.training:  # straight through: a plain clamp would stop learning wherever it acts
            return x.detach().clamp(low, high) + (x - x.detach())
        return x.nan_to_num(low, high, low).clamp(low, high)  # a hostile stream may reach infinity

    def _check_single(self, batch: int) -> None:
        if batch != 1:
            raise ValueError(f"{batch} views at once: coding takes one view at a time")
        if self.training:
            raise ValueError("the model is in training mode: call eval() before coding")

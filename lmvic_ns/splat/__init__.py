"""Gaussian splatting with median depth: rasterizers, and the nerfstudio model."""

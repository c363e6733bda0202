"""The data parser `lmvic-data` for nerfstudio's registry."""

from lmvic_ns.cli.nerfstudio_data import lmvic_data

__all__ = ["lmvic_data"]

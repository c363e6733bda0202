"""lmvic-ns: learned multi-view image compression with 3D Gaussian geometric priors."""

__version__ = "0.1.0"

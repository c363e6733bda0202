"""Depth for scenes that bring none: stereo, sparse points."""

"""The name under which `lmvic_ns.ply` was known before scenes read their points themselves."""

from lmvic_ns.ply import read_points

__all__ = ["read_points"]

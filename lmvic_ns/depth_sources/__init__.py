"""Depth for scenes without depth files, from stereo or from sparse points."""

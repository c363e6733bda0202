"""Correspondences between views from depth: cameras, disparity, masks, warping, prediction, view order."""

"""Colour maps and pictures that the viewers share."""

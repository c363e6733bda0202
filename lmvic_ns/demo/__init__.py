"""A small textured room of the project's own, with exact poses and depth."""

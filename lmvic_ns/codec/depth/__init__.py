"""Depth of a view: the quadtree that files hold, its search, and the learned depth codec."""

"""Which view refers to which: distances, reference trees."""

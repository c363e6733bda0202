"""Measuring: rate-distortion against other codecs, alignment, ablations, speed (`lmvic eval ...`)."""

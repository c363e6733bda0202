"""The published network of 3D-LMVIC (https://arxiv.org/abs/2409.04013), for comparisons."""

"""The published method (3D-LMVIC) as it stands in method.md sections 4 and 5: slow, faithful, for comparisons."""

"""What the commands do: encode a scene and verify the file, decode it into a dataset, prepare scenes with depth."""

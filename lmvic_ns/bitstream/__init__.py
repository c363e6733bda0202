"""The entropy coder and the `.lmvic` file: numpy and the standard library, no torch."""

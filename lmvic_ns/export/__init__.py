"""From a trained scene or a dataset to an `.lmvic` file, and back: the commands and their parts."""

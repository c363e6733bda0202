"""A scene into a checked file, a file into a dataset, a scene with depth: what the commands do."""

"""The commands of `lmvic`. A command is a function that takes a dataclass of options."""

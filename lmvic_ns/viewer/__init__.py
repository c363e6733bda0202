"""The page of `lmvic view`."""

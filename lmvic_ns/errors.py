"""Errors that a person can act on."""

from __future__ import annotations


class LmvicError(Exception):
    """Bad input: one line that says what is wrong and what to do.

    Command line tools print the message without a traceback and exit with code 2.
    """


class SceneError(LmvicError):
    """A data set or scene is missing something, inconsistent, or not finite."""


class BitstreamError(LmvicError):
    """An `.lmvic` file is not what it claims to be; the message names the unit and what was expected."""


class WeightsError(LmvicError):
    """Codec weights are missing, damaged, or not those that a file needs."""

"""Helpers for all packages: atomic output files, opening of pictures, exit statuses, metrics, compiled loops."""

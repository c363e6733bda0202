"""Whether nerfstudio's ns-export and its reading of points work here: both import open3d, which needs the system's libusb."""

from __future__ import annotations

from functools import cache

WHAT_IS_MISSING = "open3d does not load: apt-get install libusb-1.0-0"


@cache
def open3d_loads() -> bool:
    try:
        import open3d  # noqa: F401
    except (ImportError, OSError):
        return False
    return True

"""Where a file's bytes come from: a path, an open file, or an address that fsspec can open, read in pieces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from lmvic_ns.errors import BitstreamError

Source = str | os.PathLike[str] | BinaryIO
"""What can be read: a path, a binary file that can be sought in, or an address such as `https://host/scene.lmvic`."""


def is_address(source: Any) -> bool:
    """Whether a text is an address and not a path."""
    return isinstance(source, str) and "://" in source


def open_source(source: Source) -> tuple[IO[bytes], Path, bool]:
    """Opens a source for reading in pieces.

    Returns:
        The file, a path that stands for it in messages, and whether it is ours to close.

    Raises:
        BitstreamError: it cannot be opened, or not be sought in.
    """
    if is_address(source):
        return _open_address(str(source)), Path(str(source).rstrip("/").rpartition("/")[2] or "file"), True
    if not isinstance(source, str | os.PathLike):
        name = getattr(source, "name", None)
        path = Path(name) if isinstance(name, str) else Path("file")
        if getattr(source, "closed", False):
            raise BitstreamError(f"cannot read {path}: it is a closed file")
        if not (hasattr(source, "read") and hasattr(source, "seek") and source.seekable()):
            raise BitstreamError(f"cannot read {path}: give a file that can be sought in, opened as binary")
        return source, path, False
    path = Path(source)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise BitstreamError(f"cannot read {path}: is a device or a pipe; save it to a file first")
        return open(path, "rb"), path, True
    except OSError as error:
        raise BitstreamError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # what no path can hold
        raise BitstreamError(f"cannot read {str(path)!r}: {error}") from error


def size_of(file: IO[bytes]) -> int:
    """Bytes of an open file."""
    return file.seek(0, os.SEEK_END)


_WHOLE_ONLY = "its server gives no parts of files (HTTP ranges): download the file and give its path"
_INSTALL = "pip install 'lmvic-ns[http]'"


class _Address:
    """A file behind an address, whose errors while it is read are `OSError` like those of a file on a disk."""

    def __init__(self, file: Any) -> None:
        self._file = file
        # without a size, or from a server that packs or ignores ranges: fsspec then reads from the beginning alone
        self._streaming = not file.seekable() or getattr(file, "size", 0) is None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file.

        Raises:
            OSError: the server gives the file as a whole only.
        """
        if self._streaming and not self._file.closed:
            raise OSError(_WHOLE_ONLY)
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """As of a file.

        Raises:
            OSError: the server refused, or the connection broke.
        """
        try:
            return self._file.read(size)
        except ValueError as error:
            if self._file.closed:
                raise
            raise OSError(_WHOLE_ONLY if "range" in str(error) else str(error)) from error
        except OSError:
            raise
        except Exception as error:  # each protocol has errors of its own
            raise OSError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """As of a file."""
        self._file.close()


def _open_address(address: str) -> IO[bytes]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise BitstreamError(f"cannot read {address}: addresses need fsspec: {_INSTALL}") from None
    try:
        system, path = url_to_fs(address)
        file = system.open(path, "rb", cache_type="none")  # each read asks for its own bytes and no more
        return cast("IO[bytes]", _Address(file))
    except ImportError as error:
        what = f"{error}: {_INSTALL}" if address.startswith("http") else str(error)
        raise BitstreamError(f"cannot read {address}: {what}") from None
    except FileNotFoundError as error:  # names the address once more, and no reason
        raise BitstreamError(f"cannot read {address}: not found, or its server cannot be reached") from error
    except Exception as error:  # each protocol has errors of its own
        raise BitstreamError(f"cannot read {address}: {str(error) or type(error).__name__}") from error

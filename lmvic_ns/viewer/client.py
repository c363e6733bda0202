"""viser's page without its tag manager, with our keys and the large photograph: a copy of its client in a folder of our own.

viser's index.html asks a tag manager at every visit. The server below hands out a copy without that, under a policy by
which the browser loads nothing from elsewhere, and no file but the copy's. The copy's folder also takes pictures, so that
markdown elements carry an address instead of the picture.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss: data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'"
)
"""viser runs its markdown as a program ('unsafe-eval') and starts workers from blobs; all else comes from this server."""
PICTURES = "pictures"
"""Folder of pictures below the root."""
_COMMENTS = re.compile(r"<!--.*?-->", re.DOTALL)
_INLINE_SCRIPTS = re.compile(r"<script(?![^>]*\bsrc=)[^>]*>.*?</script>", re.DOTALL)
_FOREIGN_SCRIPTS = re.compile(r"<script[^>]*\bsrc=\"(?:https?:)?//[^>]*>\s*</script>", re.DOTALL)
_FOREIGN_LINKS = re.compile(r"<link[^>]*\bhref=\"(?:https?:)?//[^>]*>", re.DOTALL)


class ServedFolder(type(Path())):  # type: ignore[misc]
    """A folder of which files below it are found and no others: viser 0.2.7 follows `..` in an address to any file."""

    def __truediv__(self, name: Any) -> Path:
        inside = ".." not in Path(name).parts and not Path(name).is_absolute()
        return Path(self, name) if inside else Path(self, ".refused")


def own_page(page: str, title: str) -> str:
    """viser's index.html with nothing from elsewhere, our policy, title, style sheet and script."""
    for foreign in (_COMMENTS, _FOREIGN_SCRIPTS, _INLINE_SCRIPTS, _FOREIGN_LINKS):
        page = foreign.sub("", page)
    page = re.sub(r"<title>.*?</title>", f"<title>{title}</title>", page)
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}" />'
        '<link rel="stylesheet" href="/lmvic.css" /><script defer src="/lmvic.js"></script>'
    )
    return page.replace("<head>", f"<head>{head}", 1)


def copy_client(client: Path, root: Path, title: str) -> None:
    """Copy viser's built client into an empty folder and make its page our own.

    Args:
        client: folder of viser's index.html.
        root: where the copy goes.
        title: of the page.
    """
    shutil.copytree(client, root, dirs_exist_ok=True)
    (root / "index.html").write_text(own_page((client / "index.html").read_text(encoding="utf-8"), title), encoding="utf-8")
    files = resources.files("lmvic_ns.viewer") / "page_files"
    for name, source in (("lmvic.js", "stage.js"), ("lmvic.css", "stage.css")):
        (root / name).write_text((files / source).read_text(encoding="utf-8"), encoding="utf-8")
    (root / PICTURES).mkdir(exist_ok=True)


@contextmanager
def own_client(title: str = "lmvic view") -> Iterator[list[Path]]:
    """Within, a `viser.ViserServer` that starts hands out our copy of the client; it must not outlive this.

    Yields:
        A list that gets the copy's folder, and stays empty where this version of viser is built differently (its own
        page is handed out then).
    """
    from viser import infra

    server: Any = infra.WebsockServer
    roots: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="lmvic-view-") as folder:

        def with_own_root(*args: Any, **options: Any) -> Any:
            client = options.get("http_server_root")
            if client is not None and (Path(client) / "index.html").is_file():
                copy_client(Path(client), Path(folder), title)
                options["http_server_root"] = ServedFolder(folder)
                roots.append(Path(folder))
            return server(*args, **options)

        infra.WebsockServer = with_own_root  # type: ignore[assignment,misc]
        try:
            yield roots
        finally:
            infra.WebsockServer = server  # type: ignore[misc]

"""A tab of our own beside those of nerfstudio's viewer, which puts what belongs to a model into folders of its first tab."""

from __future__ import annotations

from typing import Any

import viser


class ModelTab:
    """Where the widgets of a model go; make it while nerfstudio installs them.

    Args:
        gui: of nerfstudio's viser server.
        label: of the tab.
        title: of the folder that stands for the tab where this version of nerfstudio or viser is built differently.

    Attributes:
        place: a context; what is added to `gui` within goes there.
    """

    def __init__(self, gui: Any, label: str, title: str) -> None:
        self._folders: list[Any] = []
        try:
            handles = gui._container_handle_from_id
            container = handles[gui._get_container_id()]
            while isinstance(container, viser.GuiFolderHandle):
                self._folders.append(container)
                container = handles[container._parent_container_id]
            self.place: Any = container._parent.add_tab(label, viser.Icon.PHOTO)
        except (AttributeError, KeyError, TypeError):
            self._folders.clear()
            self.place = gui.add_folder(title)

    def remove_empty_folders(self) -> None:
        """Take away the folders that nerfstudio made for our widgets and that now hold nothing."""
        for folder in self._folders:
            if not folder._children:
                folder.remove()
        self._folders.clear()

"""Notebooks as files below a root folder: the default `Contents`."""

from .contents import FilesContents, open_contents

__all__ = ["FilesContents", "open_contents"]

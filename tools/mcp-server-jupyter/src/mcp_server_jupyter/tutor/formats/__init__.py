"""Templates by their formats, told apart by what is in them: tags, nbgrader (schema 3), otter."""

from .reading import load_template

__all__ = ["load_template"]

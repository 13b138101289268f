"""Notebooks that are live documents of a Jupyter (Yjs, the schema of jupyter-ydoc), which people edit as we do."""

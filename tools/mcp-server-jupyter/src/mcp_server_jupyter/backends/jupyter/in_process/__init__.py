"""The same inside a Jupyter server: what it is asked over HTTP elsewhere, its managers are asked here."""

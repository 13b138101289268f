"""Inside a Jupyter server: our HTTP door behind its own sign-in. Imported by Jupyter alone."""

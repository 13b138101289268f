"""The magics under their other names."""

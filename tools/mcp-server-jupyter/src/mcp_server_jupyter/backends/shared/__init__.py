"""What several backends of notebooks share; no backend of its own. Any backend may import it."""

"""Ways in: each folder is one door, over the same operations. Imported by `cli` only."""

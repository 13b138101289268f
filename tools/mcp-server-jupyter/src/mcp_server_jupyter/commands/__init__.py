"""What the command line does besides serving. Imported by `cli` only."""

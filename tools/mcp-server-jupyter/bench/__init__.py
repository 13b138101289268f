"""Benchmarks of the server against the raw kernel round trip of the same, interleaved run. See README.md."""

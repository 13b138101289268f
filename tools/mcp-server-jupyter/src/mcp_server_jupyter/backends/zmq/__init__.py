"""The Jupyter wire protocol over ZMQ, for every backend that speaks it."""

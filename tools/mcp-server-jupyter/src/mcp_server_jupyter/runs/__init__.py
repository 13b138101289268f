"""Notebooks as jobs: accepted, run in a kernel of their own, kept for a while. For the gateway; imports `services`."""

from .failures import Failure, Refused
from .payload import Sent, read_payload
from .runner import Runs, open_runs

__all__ = ["Failure", "Refused", "Runs", "Sent", "open_runs", "read_payload"]

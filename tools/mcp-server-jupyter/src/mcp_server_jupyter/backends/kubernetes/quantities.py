"""Kubernetes' amounts ("512Mi", "1.5", "200m") as numbers. Source: kubernetes.io, "Quantity"."""

from __future__ import annotations

import re

_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_UNITS |= {f"{letter}i": float(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", 1)}
_QUANTITY = re.compile(r"([0-9.]+(?:[eE][0-9]+)?)([a-zA-Z]*)")


def amount(text: str) -> float | None:
    """The number of an amount; None for one that cannot be."""
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        return None
    try:
        return float(found[1]) * _UNITS[found[2]]
    except ValueError:
        return None

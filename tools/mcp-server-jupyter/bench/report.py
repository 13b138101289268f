"""Samples into figures: medians as ratios, beside their targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from .scenarios import Samples


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `value` and `target` (at most, or at least) are in `unit`; no target: only shown."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "ok" if (self.value >= self.target if self.at_least else self.value <= self.target) else "missed"


def figures(samples: Samples) -> list[Figure]:
    """Every figure that these samples have."""
    found: list[Figure] = []
    for part in (
        _ratios,
        _jupyters,
        _large,
        _outputs,
        _cold,
        _forked,
        _sizes,
        _robustness,
        _fleet,
        _memory,
        _gateway,
        _session,
    ):
        found += part(samples)
    return found


def _ratios(samples: Samples) -> list[Figure]:
    found = []
    targets: dict[str, dict[str, float | None]] = {
        "execute": {"stdio": 1.25, "stdio 2025": 1.25, "http": 1.4},
        "in a row": {"stdio": 1.0},
        "insert": {"stdio": 1.4, "http": None},
    }
    titles = {"execute": "execute 1+1", "in a row": "execute 1+1 in a row", "insert": "insert and run, 10 cells"}
    for scenario, title in titles.items():
        seconds = samples.get(scenario, {})
        for subject in seconds:
            if subject != "raw":
                target = targets[scenario].get(subject)
                found.append(_ratio(f"{title}, {subject}", seconds[subject], seconds["raw"], target))
    return found


def _jupyters(samples: Samples) -> list[Figure]:
    found = []
    targets = {"beside a Jupyter": 2.0, "inside a Jupyter": 1.6}
    titles = {"execute": "execute 1+1", "in a row": "execute 1+1 in a row", "insert": "insert and run, 10 cells"}
    for scenario, title in titles.items():
        seconds = samples.get(f"{scenario} at a Jupyter", {})
        for subject in seconds:
            if subject != "raw":
                target = targets[subject] if scenario == "execute" else None
                found.append(_ratio(f"{title}, {subject}", seconds[subject], seconds["raw"], target))
    return found


def _large(samples: Samples) -> list[Figure]:
    large, small = samples.get("insert large", {}), samples.get("insert", {})
    found = []
    for subject in large:
        if subject != "raw":
            name = f"insert and run, 5 MB, {subject}"
            found.append(
                _ratio(f"{name} / 10 cells", large[subject], small[subject], 2.0 if subject == "stdio" else None)
            )
            found.append(_ratio(f"{name} / raw 5 MB", large[subject], large["raw"], None))
    rows = samples.get("insert in a row", {})
    for subject in [name.removesuffix(" large") for name in rows if name.endswith(" large")]:
        target = 1.3 if subject == "stdio" else None
        name = f"insert and run in a row, 5 MB, {subject} / 10 cells"
        found.append(_ratio(name, rows[f"{subject} large"], rows[f"{subject} small"], target))
    return found


def _outputs(samples: Samples) -> list[Figure]:
    found = []
    for scenario, title, target in (("lines", "100,000 lines", 1.3), ("picture", "200 kB picture", None)):
        seconds = samples.get(scenario, {})
        for subject in seconds:
            if subject != "raw":
                limit = target if subject == "stdio" else None
                found.append(_ratio(f"{title}, {subject}", seconds[subject], seconds["raw"], limit))
    for subject, sizes in samples.get("lines bytes", {}).items():
        if subject != "raw":
            found.append(Figure(f"100,000 lines, answer, {subject}", max(sizes) / 1000, "kB", 10))
    for subject, sizes in samples.get("picture bytes", {}).items():
        if subject != "raw":
            found.append(Figure(f"200 kB picture, answer, {subject}", max(sizes) / 1000, "kB"))
    return found


def _cold(samples: Samples) -> list[Figure]:
    found = []
    wheres = {"stdio": ("without a server", 0.5), "attached": ("with a server", 0.2)}
    for name, (where, target) in wheres.items():
        if seconds := samples.get("spawn to tools/list", {}).get(name):
            found.append(Figure(f"spawn to tools/list, {where}", median(seconds), "s", target))
        if result := samples.get("spawn to result"):
            found.append(_ratio(f"spawn to first result, {where}", result[name], result["raw"], None))
    return found


def _forked(samples: Samples) -> list[Figure]:
    found = []
    targets = {"fork": ("start to first result", 0.25), "fork with data": ("the same, pandas and matplotlib", 0.1)}
    for name, (title, target) in targets.items():
        if seconds := samples.get(name):
            found.append(_ratio(f"forked kernel, {title} / plain", seconds["forked"], seconds["plain"], target))
    if seconds := samples.get("fork warm"):
        name = "warm kernel, start to first result / plain"
        found.append(_ratio(name, seconds["first result"], seconds["plain"], 0.15))
        found.append(Figure("warm kernel, start_kernel answered", 1000 * median(seconds["start"]), "ms", 20))
    if sizes := samples.get("fork memory"):
        forked, plain = sizes["forked"][0], sizes["plain"][0]
        detail = f"{forked / 2**20:.0f} / {plain / 2**20:.0f} MiB (PSS), with recorders and fork server"
        found.append(Figure("ten forked kernels, memory / plain", forked / plain, "x", 0.55, detail=detail))
    if once := samples.get("fork at once"):
        name = f"{once['wanted'][0]:.0f} notebooks at once, forked kernels"
        found.append(Figure(name, once["seconds"][0], "s", 2.0))
    return found


def _sizes(samples: Samples) -> list[Figure]:
    found = []
    if sizes := samples.get("tools/list bytes", {}).get("stdio"):
        found.append(Figure("tools/list on the wire", max(sizes) / 1000, "kB", 9.5, detail="goal 8 kB"))
    for subject, outline in samples.get("outline bytes", {}).items():
        found.append(Figure(f"50 cells outlined, {subject}", outline[0] / 1000, "kB", 3))
    return found


def _robustness(samples: Samples) -> list[Figure]:
    found = []
    if seconds := samples.get("killed", {}).get("stdio"):
        detail = f"median {median(seconds) * 1000:.0f} ms"
        found.append(Figure("killed kernel answered after, worst", max(seconds), "s", 1.0, detail=detail))
    if right := samples.get("at once right"):
        wanted = samples["at once"]["wanted"][0]
        detail = f"in {samples['at once']['seconds'][0]:.1f} s, kernels' starts included"
        for what, count in right.items():
            found.append(Figure(f"{wanted:.0f} notebooks at once: right {what}", count[0], "", wanted, True, detail))
    return found


def _fleet(samples: Samples) -> list[Figure]:
    fleet = samples.get("fleet")
    if not fleet:
        return []
    single = percentile(fleet["stdio single"], 99)
    turn, burst = (percentile(fleet[f"stdio {how}"], 99) for how in ("in turn", "burst"))
    raw = percentile(fleet["raw burst"], 99)
    detail = f"single p99 {single * 1000:.1f} ms"
    return [
        Figure("live kernels in turn, p99 / single's", turn / single, "x", 3.0, detail=detail),
        Figure("live kernels in one burst, p99 / single's", burst / single, "x", 3.0, detail=detail),
        Figure("live kernels in one burst, p99 / raw's", burst / raw, "x", detail=f"raw {raw * 1000:.0f} ms"),
    ]


def _memory(samples: Samples) -> list[Figure]:
    found = []
    for scenario in ("memory", "fleet memory"):
        for what, sizes in samples.get(scenario, {}).items():
            found.append(Figure(f"peak {scenario}, {what}", max(sizes) / 2**20, "MiB"))
    return found


def _gateway(samples: Samples) -> list[Figure]:
    found = []
    if one := samples.get("run"):
        found.append(_ratio("a run of 10 cells / nbclient's", one["gateway"], one["nbclient"], 1.2))
    if several := samples.get("runs"):
        ours, theirs = median(several["gateway"]), median(several["papermill"])
        detail = f"20 in {ours:.1f} s, papermill one after the other {theirs:.1f} s"
        found.append(Figure("20 runs, throughput / papermill's", theirs / ours, "x", 2.0, True, detail))
    if sizes := samples.get("runs memory"):
        grown = (sizes["after as many again"][0] - sizes["after"][0]) / 2**20
        detail = ", ".join(f"{what} {size[0] / 2**20:.0f} MiB" for what, size in sizes.items())
        found.append(Figure("gateway's memory, grown over 50 runs at once after 50", grown, "MiB", 10.0, detail=detail))
    if queue := samples.get("queue"):
        count = queue["count"][0]
        memory = ", ".join(f"{what} {size[0] / 2**20:.0f} MiB" for what, size in samples["queue memory"].items())
        detail = f"{count:.0f} queued in {queue['accepted'][0]:.1f} s, done after {queue['total'][0]:.1f} s; {memory}"
        found.append(
            Figure("queue of runs without a kernel's cost", count / queue["total"][0], "runs/s", detail=detail)
        )
        found.append(Figure("GET /runs/ID meanwhile, p99", percentile(queue["looks"], 99) * 1000, "ms"))
    return found


THEIRS = {
    "text": "1,808 kB",
    "pictures": "151 kB",
    "calls": "64",
    "print 1,500 rows": "340 kB for a big frame",
    "print 10,000 lines": "244 kB",
    "meet a long traceback": "7.9 kB",
}
"""What Datalayer's jupyter-mcp-server 2.2.4 in JupyterLab needed for twenty steps of this kind, as noted on 2026-11-21;
it is not measured here."""


def _session(samples: Samples) -> list[Figure]:
    found = []
    for name, sizes in samples.get("session", {}).items():
        theirs = f"another server: {THEIRS[name]}" if name in THEIRS else ""
        found.append(Figure(f"session, {name}", sizes[0] / 1000, "kB", detail=theirs))
    units = {"text": (1000, "kB", 45.0), "pictures": (1000, "kB", None), "calls": (1, "", None)}
    for name, sizes in samples.get("session in all", {}).items():
        divisor, unit, target = units[name]
        found.append(
            Figure(
                f"session of 20 steps, {name} in all", sizes[0] / divisor, unit, target,
                detail=f"another server (noted 2026-11-21): {THEIRS[name]}",
            )
        )  # fmt: skip
    return found


def _ratio(name: str, ours: list[float], raw: list[float], target: float | None) -> Figure:
    detail = f"{_milliseconds(median(ours))} / {_milliseconds(median(raw))}, p95 {_milliseconds(percentile(ours, 95))}"
    return Figure(name, median(ours) / median(raw), "x", target, detail=detail)


def percentile(values: list[float], share: float) -> float:
    """Linear interpolation between the closest ranks; `share` in 0..100."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * share / 100
    low, high = math.floor(rank), math.ceil(rank)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def table(found: list[Figure]) -> str:
    rows = [("figure", "median", "target", "", "in absolute terms here")]
    for figure in found:
        sign = ">=" if figure.at_least else "<="
        target = "" if figure.target is None else f"{sign} {figure.target:g} {figure.unit}".strip()
        value = f"{figure.value:.2f} {figure.unit}".strip()
        rows.append((figure.name, value, target, figure.verdict, figure.detail))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for *cells, detail in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, detail]).rstrip())
    return "\n".join(lines)

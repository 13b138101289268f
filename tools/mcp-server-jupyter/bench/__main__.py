"""`python -m bench`: run, print the table, write the samples."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from .report import figures, table
from .scenarios import QUICK, SCENARIOS, Plan, Samples


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, no waiting for quiet")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--results", type=Path, default=base / "mcp-server-jupyter" / "bench")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    samples, failed = asyncio.run(_measure(options.only, plan))
    found = figures(samples)
    print(table(found))
    print(f"\nNever quiet before {plan.quiet.never} of {plan.quiet.samples} samples.")
    rows = [asdict(figure) | {"verdict": figure.verdict} for figure in found]
    print(f"Samples: {_write(options.results, samples, rows)}")
    for name, error in failed.items():
        print(f"FAILED {name}: {error}", file=sys.stderr)
    sys.exit(1 if failed else 0)


async def _measure(names: list[str], plan: Plan) -> tuple[Samples, dict[str, str]]:
    samples: Samples = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ["IPYTHONDIR"] = str(Path(folder) / "ipython")  # histories of everyone start empty
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                samples |= await SCENARIOS[name](Path(folder), plan)
            except Exception as error:  # noqa: BLE001 - one broken measurement must not hide the others
                failed[name] = repr(error)
    return samples, failed


def _write(folder: Path, samples: Samples, found: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("%Y%m%dT%H%M%S.json")
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    path.write_text(json.dumps({"machine": machine, "figures": found, "samples": samples}, indent=1))
    return path


if __name__ == "__main__":
    main()

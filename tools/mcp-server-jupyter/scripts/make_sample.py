"""Write the sample that `serve --sample` copies: two notebooks and the measurements they read.

The measurements are made, not measured. For station s and month m (0 = January of the first year):

    temperature = mean_s + swing_s * cos(2 pi (m - 6.5) / 12) + 0.002 m + noise      (degrees Celsius)
    rain        = wet_s * (1 + 0.4 * cos(2 pi (m - phase_s) / 12)) * (1 + 4 * |noise| / 10)   (millimetres)

with noise drawn from the standard library's seeded generator, so that this script writes the same bytes every time.
"""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SAMPLE = Path(__file__).resolve().parent.parent / "src" / "mcp_server_jupyter" / "sample"
FIRST_YEAR, YEARS = 2015, 10
# station: mean temperature, its swing, mean rain, wettest month (0 = January)
STATIONS = {"coast": (10.5, 6.0, 85.0, 11), "valley": (9.0, 10.5, 60.0, 6), "ridge": (2.5, 8.0, 120.0, 5)}
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

WELCOME = [
    "# Welcome\n\nThis folder is served to your agent. It can read this notebook, add cells and run them; "
    "you see the same cells in Jupyter or VS Code.\n\nTry asking it: *\"Run the cells of welcome.ipynb, then add one "
    'that plots how often each die total came up as a bar of characters."*',
    ("dice", "import random\n\nrandom.seed(1)\n"
     "totals = [random.randint(1, 6) + random.randint(1, 6) for _ in range(1000)]"),
    ("mean", 'print(f"{len(totals)} throws, mean {sum(totals) / len(totals):.2f}")'),
    ("counts", "from collections import Counter\n\ndict(sorted(Counter(totals).items()))"),
    "The variables live in this notebook's own kernel, until you or your agent restart it. "
    "Go on with `analysis.ipynb`, which reads a table and draws plots.",
]  # fmt: skip

ANALYSIS = [
    "# Ten years of monthly measurements\n\n`measurements.csv` holds the temperature (°C) and the rain (mm) of three "
    "stations. The figures are made by a formula: a yearly cosine, a small trend and seeded noise.",
    ("load", 'import matplotlib.pyplot as plt\nimport pandas as pd\n\ntable = pd.read_csv("measurements.csv", '
     'parse_dates=["month"])\ntable.head()'),
    ("summary", 'table.groupby("station")[["temperature", "rain"]].agg(["mean", "min", "max"]).round(1)'),
    "## The year at each station",
    ("year", 'year = table.groupby(["station", table["month"].dt.month])["temperature"].mean().unstack(0)\n'
     'axes = year.plot(marker="o", figsize=(7, 4), xlabel="month", ylabel="mean temperature (°C)")\n'
     'axes.set_title("Mean temperature by month")\nplt.show()'),
    "## Is it getting warmer?\n\nThe slope of a straight line through the yearly means, in degrees a decade.",
    ("trend", 'import numpy as np\n\nyearly = table.groupby(["station", table["month"].dt.year])["temperature"].mean()'
     ".unstack(0)\nslopes = yearly.apply(lambda column: np.polyfit(column.index, column, 1)[0] * 10)\nslopes.round(2)"),
    ("rain", 'totals = table.groupby(["station", table["month"].dt.year])["rain"].sum().unstack(0)\n'
     'totals.plot.bar(figsize=(7, 4), xlabel="year", ylabel="rain (mm)", title="Rain by year")\nplt.show()'),
]  # fmt: skip


def main() -> None:
    SAMPLE.mkdir(parents=True, exist_ok=True)
    write_measurements(SAMPLE / "measurements.csv")
    write_notebook(SAMPLE / "welcome.ipynb", "welcome", WELCOME)
    write_notebook(SAMPLE / "analysis.ipynb", "analysis", ANALYSIS)


def write_measurements(path: Path) -> None:
    noise = random.Random(4040)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["month", "station", "temperature", "rain"])
        for month in range(YEARS * 12):
            day = f"{FIRST_YEAR + month // 12}-{month % 12 + 1:02}-01"
            for station, (mean, swing, wet, phase) in STATIONS.items():
                warm = mean + swing * math.cos(2 * math.pi * (month - 6.5) / 12) + 0.002 * month + noise.gauss(0, 0.8)
                share = 1 + 0.4 * math.cos(2 * math.pi * (month - phase) / 12)
                rain = wet * share * (1 + 4 * abs(noise.gauss(0, 0.8)) / 10)
                writer.writerow([day, station, f"{warm:.1f}", f"{rain:.0f}"])


def write_notebook(path: Path, name: str, cells: list[str | tuple[str, str]]) -> None:
    notebook = new_notebook(metadata={"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for number, cell in enumerate(cells):
        if isinstance(cell, tuple):
            notebook.cells.append(new_code_cell(cell[1], id=f"{name}-{cell[0]}"))
        else:
            notebook.cells.append(new_markdown_cell(cell, id=f"{name}-text-{number}"))
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()

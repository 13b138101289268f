"""Execute a notebook with nbclient and with papermill, in the kernelspec that `kernels install` wrote."""

import json
import sys
from pathlib import Path

import nbclient
import nbformat
import papermill

KERNEL = "pod-python3"
SOURCES = ("x = 1", "import os\nprint(os.environ['HOSTNAME'], x + 1)")


def notebook() -> nbformat.NotebookNode:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in SOURCES])
    made.cells[0].metadata.tags = ["parameters"]
    made.metadata.kernelspec = {"name": KERNEL, "display_name": KERNEL, "language": "python"}
    return made


def printed(executed: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in executed.cells[-1].outputs)


def main() -> None:
    executed = nbclient.NotebookClient(notebook(), kernel_name=KERNEL, timeout=120).execute()
    given, written = Path("/tmp/given.ipynb"), Path("/tmp/written.ipynb")
    nbformat.write(notebook(), given)
    papermill.execute_notebook(str(given), str(written), {"x": 41}, kernel_name=KERNEL, progress_bar=False)
    told = {"nbclient": printed(executed), "papermill": printed(nbformat.read(written, 4))}
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()

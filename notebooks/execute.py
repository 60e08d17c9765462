"""Run the notebooks on an archive and keep their outputs: `make notebooks`.

The archive is that of the newest `tickworks run`, unless --archive names another one. Nothing of the machine
stays in the files: no paths, no times of execution, no versions of the kernel.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from workloads.ticks.archive import open_archive
from workloads.ticks.schema import DATASET_TABLES, RUN_TABLES

FOLDER = Path(__file__).resolve().parent
NEWEST = FOLDER.parent / "var/runs/latest/archive"
PATIENCE_S = 300
"""How long one cell may take."""


def notebooks() -> list[Path]:
    """All of them, by name."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(notebook: nbformat.NotebookNode, archive: str) -> nbformat.NotebookNode:
    """Run every cell in a new kernel, in place; returns the notebook.

    Raises
    ------
    CellExecutionError
        If a cell fails; the message holds its traceback.
    """
    outside = dict(os.environ)
    os.environ["TICKWORKS_ARCHIVE"] = archive if "://" in archive else str(Path(archive).resolve())
    try:
        with tempfile.TemporaryDirectory() as sockets:
            kernel = {"transport": "ipc", "ip": f"{sockets}/kernel"}  # where nobody else can listen
            NotebookClient(
                notebook,
                config=Config({"KernelManager": kernel}),
                kernel_name="python3",
                record_timing=False,
                resources={"metadata": {"path": str(FOLDER)}},
                timeout=PATIENCE_S,
            ).execute()
    finally:
        os.environ.clear()
        os.environ.update(outside)
    clean(notebook)
    return notebook


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop what depends on the machine and says nothing."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--archive", default=str(NEWEST), help="a path, or s3://bucket/prefix")
    archive: str = parser.parse_args().archive
    if "://" not in archive and not Path(archive).is_dir():
        print(
            f"no archive at {archive}; make one with `make run`, or name another: --archive", file=sys.stderr
        )
        return 1
    if missing := sorted({*DATASET_TABLES, *RUN_TABLES} - set(open_archive(archive).tables())):
        print(
            f"{archive} holds no {', '.join(missing)}; a run of all stages fills them: make run",
            file=sys.stderr,
        )
        return 1
    for path in notebooks():
        notebook = nbformat.read(path, as_version=4)
        try:
            execute(notebook, archive)
        except CellExecutionError as error:
            print(f"{path.name} failed:\n{error}", file=sys.stderr)
            return 1
        nbformat.write(notebook, path)
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The run's report: one HTML file that needs nothing else, to be passed around."""

from pathlib import Path


def build_report(run_folder: Path) -> Path:
    """Read a run's folder, write ``report.html`` into it and return its path. Safe to repeat.

    The folder holds ``run.json``, ``archive/`` and, where there was a sender, ``sent.npz``. Equal folders
    give equal reports: no clock is read.

    Raises
    ------
    WorkloadError
        If ``run.json`` or the archive can't be read.
    """
    from operations.report.page import FILE_NAME, render

    path = run_folder / FILE_NAME
    part = path.with_name(path.name + ".part")
    part.write_text(render(run_folder), encoding="utf-8")
    part.replace(path)
    return path

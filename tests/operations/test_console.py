"""What people see in a terminal: names are shown as they are, paths in one piece."""

import copy
from pathlib import Path

from rich.console import Console

from operations import console

RESULT = {
    "venue": "XCME",
    "channel": 310,
    "source": {"name": "day[/b] [1].mbo.dbn.zst"},
    "sent": {"A": {"sent": 9, "dropped": 1}, "B": {"sent": 8, "dropped": 2}},
    "ingest": {
        "packets": 9,
        "messages": 1234,
        "late": 0,
        "malformed": 0,
        "kernel_drops": {"A": 3},
        "rows": {"mbo": 8941, "trades": 589},
    },
    "proof": {"equal": True, "gaps": 1, "statement": "Accounted for."},
    "data_commit": "b1384ff3be3eeb2b4e8b",
}


def summary(capsys, report: Path = Path("report.html"), **ingest) -> str:
    result = copy.deepcopy(RESULT)
    result["ingest"].update(ingest)
    console.print_summary(result, {"feed": 0.6}, report)
    return capsys.readouterr().out


def test_the_summary_tells_what_was_sent_dropped_stored_and_where_it_is(capsys):
    lines = summary(capsys).splitlines()
    assert lines[0] == "Accounted for."
    text = " ".join(" ".join(lines).split())
    assert "feed A 9 sent, 1 dropped on purpose, 3 dropped by the kernel" in text
    assert "feed B 8 sent, 2 dropped on purpose, 0 dropped by the kernel" in text
    assert "arrived 9 packets, 1,234 messages" in text
    assert "missing 1 packets" in text
    assert "late" not in text
    assert "stored mbo 8,941 trades 589" in text
    assert "commit b1384ff3be3eeb2b4e8b" in text


def test_what_is_unusual_is_added(capsys):
    assert "1 packets, 2 late, 3 malformed" in " ".join(summary(capsys, late=2, malformed=3).split())


def test_a_name_with_brackets_is_no_markup(capsys):
    assert "day[/b] [1].mbo.dbn.zst" in summary(capsys)


def test_a_long_path_of_the_report_stays_in_one_piece(capsys):
    path = Path("/", *["a-long-folder-name"] * 12, "[runs]", "report.html")
    assert summary(capsys, report=path).splitlines()[-1].split() == ["report", str(path)]


def test_progress_of_both_jobs_follows_their_events():
    ready = {"ts_first": 1000, "ts_last": 2000}
    progress = console.RunProgress(ready, quiet=True)
    with progress:
        progress.sent({"event": "ready"})
        progress.sent({"event": "progress", "ts": None, "packets": 0})
        progress.sent({"event": "progress", "ts": 1500, "packets": 10})
        progress.stored({"event": "progress", "packets": 5, "lost": 0})
        sent, stored = progress._progress.tasks
        assert (sent.completed, stored.completed) == (0.5, 0.25)
        progress.sent({"event": "done", "packets": 10})
        progress.stored({"event": "progress", "packets": 8, "lost": 2})
        assert sent.fields["what"] == "10 packets sent"
        assert stored.fields["what"] == "8 packets decoded, 2 lost"
        progress.stored({"event": "done", "packets": 8, "lost": 2})
    assert (sent.completed, stored.completed) == (1.0, 1.0)


def test_an_ingest_tells_its_warning_and_its_commits_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(console.stderr, "_file", None)  # whatever stderr is just now
    with console.ingest_status() as show:
        show({"event": "ready", "warning": "the kernel granted [208] KiB"})
        show({"event": "committed", "segment": 1, "rows": {"mbo": 1000, "trades": 2}})
        show({"event": "progress", "received": 1, "durable": 1, "packets": 1, "lost": 0})
    out, err = capsys.readouterr()
    assert out == ""
    assert "the kernel granted [208] KiB" in err
    assert "segment 1: 1,002 rows committed" in err


RESEARCH = {
    "features": {
        "result": {"dataset": "book-1f3a9c04", "frames": 48_000, "clean_frames": 47_900, "labels": 47_000}
    },
    "training": {
        "result": {
            "accuracy": {
                "vit": {"train": 0.6612, "validation": 0.651, "test": 0.6449},
                "majority": {"train": 0.365, "test": 0.3601},
            }
        }
    },
    "backtest": {
        "result": {
            "strategies": {
                "vit": {"currency": "USD", "pnl": 1234.5, "gross_pnl": 2000.0, "sharpe": 2.314}
                | {"sharpe_low": -1.0, "sharpe_high": 5.5},
                "[flow]": {"pnl": -80.25},
            }
        }
    },
    "skipped": None,
}


def printed(research: dict) -> str:
    """Lines as a terminal shows them, each with single spaces."""
    shown = Console(width=120, highlight=False, markup=False)
    with shown.capture() as caught:
        shown.print(console.research_lines(research))
    return "\n".join(" ".join(line.split()) for line in caught.get().splitlines())


def test_research_is_told_in_a_few_lines():
    assert printed(RESEARCH) == (
        "dataset book-1f3a9c04, 48,000 looks at a book, 47,900 usable, 47,000 labels\n"
        "backtest vit: +1,234.50 USD after costs, +2,000.00 before them, "
        "annualised Sharpe 2.31 (-1.00 to 5.50)\n"
        "backtest [flow]: -80.25 after costs\n"
        "accuracy train validation test\n"
        "vit 66.1 % 65.1 % 64.5 %\n"
        "majority 36.5 % – 36.0 %"
    )


def test_research_that_was_skipped_says_why_once():
    reason = "12 looks at a book are too few"
    assert printed({"skipped": reason, "features": {"result": {"skipped": reason}}}) == (
        f"research stopped: {reason}"
    )
    assert printed({}) == ""

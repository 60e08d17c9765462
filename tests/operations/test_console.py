"""What people see in a terminal: names are shown as they are, paths in one piece."""

import copy
from pathlib import Path

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

"""The report as people see it: in headless Chromium, without a network."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from operations.report import build_report
from tests.conftest import skip_or_fail
from tests.operations.research_run import make
from workloads.exchange.feed import FeedLog, SendLog
from workloads.ticks.archive import Partition, open_archive
from workloads.ticks.codes import Action, EventFlag, Side
from workloads.ticks.schema import TABLES

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
NANO = 1_000_000_000
DAY = Partition("XCME", date(2026, 1, 5), 310)
OPEN = int(np.datetime64("2026-01-05T14:30", "ns").astype(np.int64))
HOST = int(np.datetime64("2026-11-22T15:41", "ns").astype(np.int64))
N = 3_000
SYMBOLS = {1: "ESH6", 2: "<script>alert(1)</script>"}
ARRIVAL_CHARTS = ["chart-skew", "chart-latency", "chart-event_rate", "chart-wall_rate"]
RESEARCH_CHARTS = [
    *("chart-usable", "chart-accuracy", "chart-reliability", "chart-learning_loss"),
    *("chart-learning_accuracy", "chart-equity", "chart-drawdown", "chart-costs", "chart-positions"),
]


def table(name: str, columns: dict) -> pa.Table:
    """Rows of a market table from columns; what isn't named is null or, in the identity, constant."""
    n = len(next(iter(columns.values())))
    base = {"venue": ["XCME"] * n, "channel": np.full(n, 310), "epoch": np.full(n, 2026010400)}
    base |= {"seq": np.arange(1, n + 1), "msg_index": np.zeros(n), "entry_index": np.zeros(n)} | columns
    fields = []
    for field in TABLES[name].arrow:
        values = base.get(field.name)
        fields.append(pa.nulls(n, field.type) if values is None else pa.array(values).cast(field.type))
    return pa.table(fields, schema=TABLES[name].arrow)


def packets(random: np.random.Generator) -> tuple[dict, SendLog]:
    """N packets; every 100th left on A only, every 150th on B only, number 600 on neither."""
    seq = np.arange(1, N + 1)
    sent = HOST + seq * 1_000_000
    on_a, on_b = seq % 150 != 0, seq % 100 != 0
    a = sent + random.lognormal(8, 1, N).astype(np.int64) + 1
    b = sent + random.lognormal(9, 1, N).astype(np.int64) + 1
    there = on_a | on_b
    columns = {
        "seq": seq,
        "ts_sent": OPEN + seq * NANO // 10,
        "ts_recv": np.where(on_a & (~on_b | (a <= b)), a, b),
        "ts_recv_a": pa.array(a, mask=~on_a),
        "ts_recv_b": pa.array(b, mask=~on_b),
        "bytes": np.full(N, 100),
        "messages": np.ones(N),
    }
    columns = {
        k: (v.filter(pa.array(there)) if isinstance(v, pa.Array) else v[there]) for k, v in columns.items()
    }
    feeds = {
        name: FeedLog(seq.astype(np.uint32), np.where(left, sent, 0), left.astype(np.uint8))
        for name, left in (("A", on_a), ("B", on_b))
    }
    return columns, SendLog(feeds)


def orders(random: np.random.Generator) -> dict:
    """A bid and an ask for each instrument that move up and down together, one tick apart."""
    step = np.arange(N)
    side = step % 2
    price = 100 * NANO + (np.round(random.normal(0, 0.4, N // 4).cumsum()).repeat(4) + side) * NANO // 4
    return {
        "ts_event": OPEN + step * NANO // 10,
        "ts_sent": OPEN + step * NANO // 10,
        "instrument_id": 1 + step // 2 % 2,
        "order_id": 1 + step % 4,
        "priority": step,
        "price": price,
        "size": random.integers(1, 50, N),
        "action": np.where(step < 4, int(Action.NEW), int(Action.CHANGE)),
        "side": np.where(side == 0, int(Side.BUY), int(Side.SELL)),
        "event_flags": np.where(step % 2 == 1, int(EventFlag.END), 0),
        "row_flags": np.zeros(N),
        "template": np.full(N, 47),
    }


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(7)
    archive = open_archive(str(folder / "archive"))
    arrived, log = packets(random)
    log.save(folder / "sent.npz")
    archive.commit("packets", DAY, {"p": table("packets", arrived)})
    gap = {"first_seq": [300], "last_seq": [300], "reason": ["passed"], "outcome": ["lost"]}
    gap |= {"ts_before": [HOST], "ts_after": [HOST + 1]}
    more = {name: [values[0]] * 9 for name, values in gap.items()}
    more["first_seq"] = more["last_seq"] = list(range(600, 3_001, 300))
    archive.commit("gaps", DAY, {"g": table("gaps", {k: gap[k] + more[k] for k in gap})})
    archive.commit("mbo", DAY, {"m": table("mbo", orders(random))})
    traded = {name: values[::3] for name, values in orders(random).items()} | {
        "seq": np.arange(1, N + 1)[::3]
    }
    traded |= {"aggressor": traded.pop("side"), "action": np.zeros(len(traded["seq"]))}
    archive.commit("trades", DAY, {"t": table("trades", traded)})
    defined = {"instrument_id": list(SYMBOLS), "symbol": list(SYMBOLS.values()), "tick": [NANO // 4] * 2}
    archive.commit("definitions", DAY, {"d": table("definitions", defined | {"currency": ["USD"] * 2})})
    feeds = {"feed": ["A", "B"], "packets": [N, N], "receive_buffer": [64 << 20] * 2}
    archive.commit("feeds", DAY, {"f": table("feeds", feeds)})
    run = {"name": "20261122T154112", "command": "tickworks run --seed 7", "venue": "XCME", "channel": 310}
    run |= {"seconds": {"feed": 3.0, "store": 1.0}, "proof": {"equal": True, "dropped_on_both": 10}}
    (folder / "run.json").write_text(json.dumps(run))
    return build_report(folder)


@pytest.fixture(scope="module")
def research_file(tmp_path_factory) -> Path:
    """The report of a run with research; nothing of its feeds is stored."""
    return build_report(make(tmp_path_factory.mktemp("research"), instruments=3, steps=1_600).folder)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if not Path(CHROMIUM).exists() and not shutil.which("chromium"):
        skip_or_fail("no Chromium; install it with: apt-get install -y chromium fonts-dejavu-core")
    path = CHROMIUM if Path(CHROMIUM).exists() else shutil.which("chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, page_file: Path, *, width: int = 1280, scheme: str = "light", context=None) -> Iterator:
    """The page with its charts drawn; at the end, nothing may have been complained about or fetched."""
    own = context is None
    context = context or browser.new_context(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        offline=True,
        is_mobile=width < 500,
        has_touch=width < 500,
    )
    page = context.new_page()
    said, fetched = [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(page_file.as_uri())
    until(page, "document.querySelectorAll('.chart .main-svg .xtick').length > 8")
    yield page
    assert said == []
    assert [url for url in fetched if not url.startswith("data:")] == [page_file.as_uri()]
    page.close()
    if own:
        context.close()


def until(page, condition: str) -> None:
    """Wait for an expression to hold. (Playwright's own wait evaluates strings, which the page forbids.)"""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


def marks(page) -> dict[str, int]:
    """For each visible chart the number of lines, bars and points with a shape."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('.chart')]
            .filter((chart) => chart.offsetParent)
            .map((chart) => [chart.id || chart.closest('figure').dataset.slot,
                [...chart.querySelectorAll('.main-svg .trace path')]
                    .filter((path) => (path.getAttribute('d') || '').length > 8).length]))"""
    )


def assert_nothing_sticks_out(page, width: int) -> None:
    """No horizontal scrolling, but inside of wide tables."""
    assert page.evaluate("document.documentElement.scrollWidth") == width
    too_wide = page.evaluate(
        """() => [...document.querySelectorAll('header *, main *')]
            .filter((e) => !e.closest('.scroll') && !e.closest('svg') && e.offsetParent
                && e.getBoundingClientRect().right > innerWidth + 1)
            .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert too_wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_all_charts_are_drawn_and_nothing_sticks_out(browser, page_file, width, scheme):
    with opened(browser, page_file, width=width, scheme=scheme) as page:
        drawn = marks(page)
        assert list(drawn) == [*ARRIVAL_CHARTS, "price", "spread", "depth", "volume"]
        assert all(drawn.values()), drawn
        assert_nothing_sticks_out(page, width)


def test_the_theme_follows_the_system(browser, page_file):
    colors = "['body', '.xtick text'].map((s) => getComputedStyle(document.querySelector(s)))"
    colors = f"{colors}.map((style, i) => i ? style.fill : style.backgroundColor)"
    with opened(browser, page_file, scheme="light") as page:
        ground, ink = page.evaluate(colors)
        page.emulate_media(color_scheme="dark")
        until(page, f"{colors}[0] !== {json.dumps(ground)} && {colors}[1] !== {json.dumps(ink)}")
        assert all(marks(page).values())


def test_the_chosen_theme_recolours_the_charts_and_is_remembered(browser, page_file):
    context = browser.new_context(color_scheme="light", offline=True)
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    with opened(browser, page_file, context=context) as page:
        before = page.evaluate(ink)
        page.click("#theme")
        until(page, f"{ink} !== {json.dumps(before)}")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert all(marks(page).values())
    with opened(browser, page_file, context=context) as page:
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate(ink) != before
    context.close()


def test_the_selector_shows_another_instrument(browser, page_file):
    with opened(browser, page_file) as page:
        options = page.locator("#instrument option").all_text_contents()
        assert sorted(options) == sorted(SYMBOLS.values())
        title = page.locator("[data-slot=volume] h3").inner_text()
        line = "document.querySelector('[data-slot=depth] .trace path').getAttribute('d')"
        before = page.evaluate(line)
        page.select_option("#instrument", "1")
        until(page, f"{line} !== {json.dumps(before)}")
        assert page.locator("[data-slot=volume] h3").inner_text() != title
        assert page.locator("[data-instrument='1']").first.is_visible()
        assert not page.locator("[data-instrument='0']").first.is_visible()
        assert all(marks(page).values())


def test_zooming_one_market_chart_zooms_the_others_and_back(browser, page_file):
    ranges = (
        "[...document.querySelectorAll('[data-slot] .chart')]"
        ".map((c) => c.layout.xaxis.range.map((t) => Math.round(+new Date(t) / 1000)).join())"
    )
    with opened(browser, page_file) as page:
        before = page.evaluate(ranges)
        area = page.locator("[data-slot=price] .nsewdrag")
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.3, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=4)
        page.mouse.up()
        until(page, f"new Set({ranges}).size === 1 && {ranges}[0] !== {json.dumps(before[0])}")
        area.dblclick()
        until(page, f"new Set({ranges}).size === 1 && {ranges}[0] === {json.dumps(before[0])}")


def test_the_verdict_comes_first_and_needs_no_script(browser, page_file):
    context = browser.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    first = page.locator(".verdict").first
    assert first.locator("strong").inner_text() == "Gaps found, all explained"
    assert "packets of 3,000 never came: 10 dropped on both feeds" in first.inner_text()
    assert first.bounding_box()["y"] < 500
    assert page.locator("#research-verdict strong").inner_text() == "No research"
    assert page.locator("noscript").is_visible()
    context.close()


def test_it_prints_light_with_every_chart(browser, page_file):
    with opened(browser, page_file, scheme="dark") as page:
        assert len(page.pdf()) > 50_000
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
            == "rgb(255, 255, 255)"
        )
        assert all(marks(page).values())


# Research


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_all_charts_of_research_are_drawn_and_nothing_sticks_out(browser, research_file, width, scheme):
    with opened(browser, research_file, width=width, scheme=scheme) as page:
        drawn = marks(page)
        assert list(drawn) == RESEARCH_CHARTS
        assert all(drawn.values()), drawn
        for closed in page.locator("summary").all():
            closed.click()
        assert page.locator("details[open]").count() == 3
        assert_nothing_sticks_out(page, width)


def test_each_model_and_strategy_has_its_marks(browser, research_file):
    """Of four models, three instruments and all of them; of two strategies."""
    with opened(browser, research_file) as page:
        drawn = marks(page)
        whiskers = "document.querySelectorAll('#chart-accuracy .errorbar path').length"
        points = "document.querySelectorAll('#chart-accuracy .points path').length"
        assert (page.evaluate(points), page.evaluate(whiskers)) == (16, 16)
        assert page.evaluate("document.querySelectorAll('#chart-equity .lines .js-line').length") == 4
        assert page.evaluate("document.querySelectorAll('#chart-costs .points path').length") == 10
        assert drawn["chart-positions"] >= 3


def test_another_strategys_positions_are_a_click_away(browser, research_file):
    lines = "document.querySelectorAll('#chart-positions .lines .js-line').length"
    with opened(browser, research_file) as page:
        assert page.evaluate(lines) == 3
        page.locator("#chart-positions .legendtoggle").nth(1).click()
        until(page, f"{lines} === 6")


def test_the_research_verdict_needs_no_script_and_stands_at_the_top(browser, research_file):
    context = browser.new_context(viewport={"width": 1280, "height": 844}, java_script_enabled=False)
    page = context.new_page()
    page.goto(research_file.as_uri())
    said = page.locator("#research-verdict")
    assert said.bounding_box()["y"] < 500
    assert "of the time" in said.inner_text()
    assert "After costs, strategy vit" in said.inner_text()
    assert page.locator("#forecast table").first.is_visible()
    context.close()


def test_research_prints_light_with_every_chart(browser, research_file):
    with opened(browser, research_file, scheme="dark") as page:
        assert len(page.pdf()) > 50_000
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        card = "getComputedStyle(document.querySelector('.card')).backgroundColor"
        assert page.evaluate(card) == "rgb(255, 255, 255)"
        assert all(marks(page).values())

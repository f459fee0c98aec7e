"""The report page in a real browser: nothing is missing, nothing overflows, tables sort, data runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Browser
from report_page import HOSTILE, Results

from distillery.report.text import one_line

STATE = """(page, view) => ({
    title: page.title,
    width: page.documentElement.scrollWidth,
    frame: view.innerWidth,
    images: [...page.images].map((image) => image.complete && image.naturalWidth > 0),
    tables: page.querySelectorAll("table").length,
    buttons: page.querySelectorAll("th button").length,
    headings: page.querySelectorAll("th").length,
    paper: view.getComputedStyle(page.body).backgroundColor,
    ink: view.getComputedStyle(page.body).color,
})"""

SORT = """(page) => {
    const table = page.querySelector("table"), buttons = [...table.querySelectorAll("th button")];
    const column = (number) => [...table.tBodies[0].rows].map((row) => row.cells[number].textContent);
    const orders = {};
    for (const [name, number] of [["method", 0], ["ipc", 1], ["accuracy", 2]]) {
        orders[name] = [0, 1].map(() => {
            buttons[number].click();
            return [column(number), table.querySelectorAll("th[aria-sort]").length,
                    table.tHead.rows[0].cells[number].getAttribute("aria-sort")];
        });
    }
    return orders;
}"""

KEYS = """(page, view) => {
    page.querySelectorAll("details").forEach((part) => (part.open = true));
    const controls = [...page.querySelectorAll("a[href], button, [tabindex], summary")];
    const refuses = (part) => { part.focus(); return page.activeElement !== part; };
    return controls.filter(refuses).map((part) => part.outerHTML);
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """One browser for all tests."""
    return Browser(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with hostile names, one of them very long."""
    results = Results(tmp_path_factory.mktemp("page"), [*HOSTILE, "long" * 100])
    results.report()
    return results.page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_the_page_is_whole_at_every_width(browser: Browser, page: Path, width: int, dark: bool) -> None:
    state, console = browser.ask(page, STATE, width=width, dark=dark)
    assert console == []
    assert state["title"] == "small: report"  # no name from data has run as a script
    assert state["frame"] == width and state["width"] <= width
    assert len(state["images"]) == 3 and all(state["images"])
    assert state["tables"] == 5 and state["buttons"] == state["headings"] > 0
    paper, ink = (sum(map(int, state[name][4:-1].split(","))) for name in ("paper", "ink"))
    assert paper < ink if dark else ink < paper


def test_tables_sort_by_numbers_and_by_words_with_empty_cells_last(browser: Browser, page: Path) -> None:
    orders, console = browser.ask(page, SORT, width=1440)
    assert console == []
    names = len(HOSTILE) + 2
    for name, (first, second) in orders.items():
        assert first[1:] == [1, "ascending"] and second[1:] == [1, "descending"]
        assert len(first[0]) == len(second[0]) == names
        if name == "method":
            assert first[0] == second[0][::-1] and first[0] != sorted(first[0], key=len)
        else:
            values = [float(cell) for cell in first[0] if cell]
            assert values == sorted(values) and values[::-1] == [float(cell) for cell in second[0] if cell]
    assert orders["accuracy"][0][0][-1] == orders["accuracy"][1][0][-1] == ""
    assert {one_line(name) for name in HOSTILE if name[0] not in "=+-@"} <= set(orders["method"][0][0])


def test_every_control_takes_the_focus_of_the_keyboard(browser: Browser, page: Path) -> None:
    refused, _ = browser.ask(page, KEYS, width=1440)
    assert refused == []


def test_a_broken_page_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<!doctype html><body style='width:2000px'><img src='none.png'><script>missing()</script>", "utf-8"
    )
    state, console = browser.ask(broken, STATE, width=375)
    assert state["width"] >= 2000 and state["images"] == [False]
    assert any("missing is not defined" in line for line in console)

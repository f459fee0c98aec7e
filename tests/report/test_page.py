"""The report page: what it shows, what it says of what is not there, and that text from data stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from clone import PROJECT
from report_page import HOSTILE, RULES, Results

from distillery.plan.load import load
from distillery.report import page as pages
from distillery.report.rule_graph import draw, layers, needed
from distillery.report.text import one_line
from distillery.stages.write_report import Settings


class Read(HTMLParser):
    """A page as a browser reads it.

    Attributes:
        text: of all elements but scripts and styles.
        tags: names, with their attributes.
        scripts: what scripts hold.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.scripts = "", [], []  # type: ignore[var-annotated]
        self.feed(page)

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts.append(data)
        elif self.cdata_elem != "style":
            self.text += data


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path, ["lgd", "dit"])


def test_the_page_holds_the_run_its_tables_figures_cost_and_provenance(results: Results) -> None:
    read = Read(results.report())
    for words in (
        *("Training images", "There is one seed.", "Accuracy of the students", "accuracy_mean", "10", "1.5", "0.6667"),
        *("Images by increment", "lgd, seed 3", "Cost by stage", "evaluate", "2.5", "SHA-256", "no picture"),
        *("train_student (4)", "classes:", "sample standard deviations", "Commit c0ffee", "accuracy.md"),
    ):
        assert words in read.words + str(read.tags), words
    assert sum(tag == "img" for tag, _ in read.tags) == len(results.figures)


def test_text_from_data_stays_text(tmp_path: Path) -> None:
    results = Results(tmp_path, HOSTILE)
    page = results.report()
    read = Read(page)
    assert len(read.scripts) == 1 and "owned" not in read.scripts[0]
    assert not [about for tag, about in read.tags if any(name.startswith("on") for name in about)]
    assert all(about["src"].startswith("data:image/") for tag, about in read.tags if tag == "img")
    for name in HOSTILE:
        assert read.text.count(one_line(name)) >= 3, name  # in the facts, a table, and what was rejected
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page)
    assert "49" not in re.findall(r"<dd>(.*?)</dd>", page)


def test_a_name_of_a_rule_stays_text() -> None:
    hostile = {"<script>": [], "write": ["<script>"]}
    graph, closing = needed(hostile, "write")
    assert "<script>" not in draw(graph, closing, {name: name for name in graph})


def test_the_page_asks_nothing_of_a_network_and_runs_its_own_script_alone(results: Results) -> None:
    page = results.report()
    read = Read(page)
    fetched = [about.get(name, "") for _, about in read.tags for name in ("src", "srcset", "data", "action")]
    fetched += [about.get("href") for tag, about in read.tags if tag == "link"]
    assert [address for address in fetched if address and not address.startswith("data:")] == []
    assert "@import" not in page and "url(" not in page
    (policy,) = (about["content"] for tag, about in read.tags if about.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "unsafe" not in policy


def test_links_lead_to_files_of_the_results(results: Results) -> None:
    read = Read(results.report())
    links = [about["href"] for tag, about in read.tags if tag == "a"]
    ids = {about["id"] for _, about in read.tags if "id" in about}
    assert len(links) > 10
    for link in links:
        assert link[1:] in ids if link.startswith("#") else (results.page.parent / link).is_file(), link


def test_a_reader_without_a_mouse_or_a_screen_has_names_for_all(results: Results) -> None:
    read = Read(results.report())
    about = [(tag, names) for tag, names in read.tags]
    assert ("html", {"lang": "en"}) in about
    assert all(names.get("alt") for tag, names in about if tag == "img")
    assert all(names.get("scope") == "col" for tag, names in about if tag == "th")
    wide = [names for _, names in about if names.get("class", "").startswith("wide")]
    assert wide and all(names["tabindex"] == "0" and names["aria-label"] for names in wide)
    ids = [names["id"] for _, names in about if "id" in names]
    assert len(ids) == len(set(ids))
    assert all(names["aria-labelledby"] in ids for _, names in about if "aria-labelledby" in names)
    levels = [int(tag[1]) for tag, _ in about if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))


def test_equal_results_give_an_equal_page_but_for_the_cost(results: Results) -> None:
    first = results.report()
    assert results.report() == first
    results.cost("cost/dit/evaluate-1.json", 99.0)
    other = results.report()
    assert other != first
    without = [re.sub(r'(?s)<section aria-labelledby="cost">.*?</section>', "", page) for page in (first, other)]
    assert without[0] == without[1]


def test_what_is_missing_is_said_and_the_rest_stands(results: Results) -> None:
    for path in ("tables/increments.csv", "cost/dit/evaluate-1.json", "report/rules.json"):
        (results.folder / path).unlink()
    (results.folder / "distilled/dit/ipc1.parquet").unlink()
    results.figures = ["figures/accuracy"]
    text = Read(results.report()).words
    for words in (
        "Images by increment, Increments No method works in increments. A method of kind lgd does.",
        "No guidance is calibrated.",
        "No job has noted its cost",
        "The graph of the rules is missing",
        "The experiment distils no set",
        "Accuracy of the students",
    ):
        assert words in text


def test_a_new_analysis_is_shown_with_its_caption(results: Results) -> None:
    results.write("tables/spikes.csv", "method,spike\nlgd,0.25\n")
    caption = results.captions / "tables/spikes.rst"
    caption.write_text(".. category: Novelty\n\nSpikes of the loss\n==================\n\nOf a *student*.\n", "utf-8")
    page = results.report()
    assert "Spikes of the loss" in page and "Of a <em>student</em>." in page and ">Novelty</h2>" in page


def test_a_figure_that_is_too_large_gives_way_to_its_pixels_or_a_link(results: Results) -> None:
    large, pixels = (results.folder / f"figures/accuracy.{end}" for end in ("svg", "png"))
    large.write_text(" " * (pages.MOST_BYTES + 1), "utf-8")
    assert pages.read_picture(large, "", results.page).source.startswith("data:image/png;base64,")
    pixels.write_bytes(b" " * (pages.MOST_BYTES + 1))
    assert 'too large for this page: <a href="../figures/accuracy.svg">' in results.report()


def test_a_table_without_rows_says_so(results: Results) -> None:
    results.write("tables/accuracy.csv", "method,ipc\n")
    assert "The table has no rows." in results.report()


def test_a_long_table_says_how_many_rows_are_in_its_file_alone(results: Results) -> None:
    rows = "".join(f"m,{number}\n" for number in range(pages.MOST_ROWS + 5))
    results.write("tables/accuracy.csv", f"method,ipc\n{rows}")
    assert "5 more rows are in the file." in results.report()


@pytest.mark.parametrize("path", ["config.yaml", "experiments/digits-seeds.yaml"])
def test_remarks_say_what_an_experiment_cannot_show(path: str) -> None:
    experiment = load(yaml.safe_load((PROJECT / path).read_text("utf-8")))
    settings = Settings.of(experiment)
    assert any("one seed" in remark for remark in settings.remarks) == (len(experiment.seeds) == 1)
    assert any("no teacher" in remark for remark in settings.remarks)
    assert settings.facts["Methods"].startswith("dit (plain), ")
    turned = dict(reversed(yaml.safe_load((PROJECT / path).read_text("utf-8"))["methods"].items()))
    assert Settings.of(load({**yaml.safe_load((PROJECT / path).read_text("utf-8")), "methods": turned})) == settings


def test_rules_that_read_from_each_other_are_drawn_with_an_edge_back() -> None:
    graph, closing = needed({name: rule["from"] for name, rule in RULES.items()}, "write_report")
    assert "all" not in graph
    assert graph["write_report"] == ["collect"]  # the edge to ingest follows from others
    assert closing in ({"train_student": ["select_increment"]}, {"select_increment": ["train_student"]})
    rows, chains = layers(graph)
    place = {name: number for number, row in enumerate(rows) for name in row}
    assert all(place[other] < place[name] for name, others in graph.items() for other in others)
    assert all(place[second] == place[first] + 1 for chain in chains.values() for first, second in pairwise(chain))
    assert draw(graph, closing, {name: name for name in graph}).count('"edge back"') == 1

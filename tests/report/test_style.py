"""Claims about the look of figures: a method keeps its colour and marker, and each figure says what it shows."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from about import ABOUT
from matplotlib.figure import Figure
from PIL import Image

from distillery.report import style

WHITE, DARK = (1.0, 1.0, 1.0), (0.08, 0.08, 0.08)
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""On linear RGB, severity 1: Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113."""

TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color: tuple[float, ...]) -> np.ndarray:
    """sRGB, 0 to 1, to linear light."""
    values = np.array(color)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def rgb(color: str) -> tuple[float, ...]:
    """`#rrggbb` as three numbers, 0 to 1."""
    return tuple(int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The ratio of WCAG."""
    light, dark = sorted((float(linear(color) @ TO_XYZ[1]) for color in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(light: np.ndarray) -> np.ndarray:
    """Linear RGB to CIE L*a*b*."""
    ratio = TO_XYZ @ np.clip(light, 0, 1) / np.array([0.95047, 1, 1.08883])
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("paper", [WHITE, DARK], ids=["light", "dark"])
def test_every_colour_can_be_seen_on_light_and_dark_paper(paper: tuple[float, ...]) -> None:
    assert min(contrast(rgb(color), paper) for color in style.PALETTE) >= 3


@pytest.mark.parametrize("vision", VISIONS)
def test_any_two_colours_are_told_apart_with_any_colour_vision(vision: str) -> None:
    seen = [lab(VISIONS[vision] @ linear(rgb(color))) for color in style.PALETTE]
    assert min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2)) > 20


def test_a_method_keeps_its_colour_and_marker_whatever_stands_beside_it() -> None:
    names = ["lgd", "dit", "mine", "gamma-10", *(f"method {index}" for index in range(40))]
    looks = style.method_styles(names)
    for name in names:
        alone = style.method_styles([name])[name]
        assert looks[name][:2] == alone[:2] == style.method_style(name)[:2]
    assert style.method_styles(names[::-1])["mine"][:2] == looks["mine"][:2]
    # Pinned: another hash or palette would change every figure that was ever made.
    assert style.method_style("lgd") == ("#0077AA", "o", "-")
    assert style.method_style("mine") == ("#7733FF", "P", "-")


def test_known_methods_look_unlike_each_other_and_unlike_any_other() -> None:
    known = ["full", "random", "herding", "k_center", "dit", "minimax", "igd", "mgd3", "lgd", "ld3m", "memory"]
    known += ["dc", "dm", "mtt", "idc", "rded"]
    looks = {style.method_style(name)[:2] for name in known}
    assert len(looks) == len(known)
    assert not looks & {style.method_style(f"method {index}")[:2] for index in range(300)}


def test_methods_that_share_colour_and_marker_differ_in_their_line() -> None:
    names = [f"method {index}" for index in range(60)]
    shared = [look[:2] for look in map(style.method_style, names)]
    assert len(set(shared)) < len(names)
    assert len(set(style.method_styles(names).values())) == len(names)


@pytest.mark.parametrize("layout", ["constrained", "none"])
def test_the_line_below_a_figure_hides_nothing_and_takes_no_room_from_its_axes(layout: str, tmp_path: Path) -> None:
    @style.styled
    def build(described: bool) -> Figure:
        figure = Figure(figsize=(3, 2), layout=layout, dpi=100)
        axes = figure.add_axes((0.2, 0.4, 0.7, 0.4)) if layout == "none" else figure.add_subplot()
        axes.plot([0, 1], label="a")
        figure.suptitle("title")
        style.legend(figure, [axes])
        figure.draw_without_rendering()
        if described:
            style.describe(figure, ABOUT, protocol="small", n="n = 12 networks", bars="one standard deviation")
        style.save(figure, tmp_path / "f.png", tmp_path / "f.svg")
        return figure

    plain, figure = build(False), build(True)
    for name in ("width", "height"):
        sizes = [getattr(each.axes[0].get_window_extent(), name) for each in (plain, figure)]
        assert sizes[0] == pytest.approx(sizes[1], abs=3)
    below = figure.texts[-1].get_window_extent()
    assert below.y1 < figure.legends[0].get_window_extent().y0
    assert below.x0 > 0 and below.y0 > 0 and below.x1 < 300
    with Image.open(tmp_path / "f.png") as image:
        assert image.height == round(100 * figure.get_figheight()) > 200


def test_a_figure_says_data_set_protocol_n_and_what_the_bars_are() -> None:
    figure = Figure(figsize=(8, 2))
    style.describe(figure, ABOUT, protocol=["a", "b"], n="n = 3 seeds", bars="the range", notes=["no teacher"])
    words = figure.texts[-1].get_text().replace("\n", " · ")
    assert words == "digits (4 classes of 16 px) · protocol a and b · n = 3 seeds · bars: the range · no teacher"


def test_a_data_set_that_the_font_cannot_write_is_named_by_its_experiment() -> None:
    figure = Figure(figsize=(8, 2))
    style.describe(figure, ABOUT.model_copy(update={"dataset": "狗"}))
    assert figure.texts[-1].get_text() == "data set of tiny"

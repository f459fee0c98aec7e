"""The experiment of tables and figures that tests make."""

from __future__ import annotations

from distillery.report.about import About

ABOUT = About(experiment="tiny", dataset="digits (4 classes of 16 px)", protocols=["p"])
SETTING = {"about": ABOUT.model_dump()}
"""The part of a stage's settings that says so."""

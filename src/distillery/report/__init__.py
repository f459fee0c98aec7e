from pathlib import Path

PUBLISHED = Path(__file__).with_name("published.csv")
"""The published numbers; `distillery.report.published` describes their columns."""

"""What the rules ask the machine for, read from their files."""

from __future__ import annotations

from clone import PROJECT

RESOURCES = {
    rule.partition(":")[0]: rule.partition("    resources:")[2].partition("    params:")[0]
    for path in sorted((PROJECT / "workflow/rules").glob("*.smk"))
    for rule in path.read_text("utf-8").split("\nrule ")[1:]
}
"""Rule -> the lines of its resources, empty for a rule of this machine."""

"""Commands for people, beside those of the stages: each module has a `main`."""

"""Optimised images: a parameterisation that renders them, and an objective that compares them with the real set."""

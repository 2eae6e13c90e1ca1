"""A run of the proof as a test: each of its figures has to hold."""

import os

import pytest

from tests.servers import binaries

__all__ = ["needs_servers", "shown"]

needs_servers = pytest.mark.skipif(
    not binaries() or not hasattr(os, "fork"), reason="no Redis or Valkey server was found, or no fork"
)


def shown(figures):
    """Return the figures by what they tried, all of them holding."""
    figures = list(figures)
    broken = [f"{each.what}: {each.seen}" for each in figures if not each.holds]
    if broken or not figures:
        pytest.fail("\n".join(broken) or "no figure")
    return {each.what: each for each in figures}

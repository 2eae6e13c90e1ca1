"""Runs of the proof as tests: each of their figures must hold."""

import os

import pytest

from tests.servers import binaries

__all__ = ["all_holding", "needs_servers"]

needs_servers = pytest.mark.skipif(
    not binaries() or not hasattr(os, "fork"), reason="no Redis or Valkey server was found, or no fork"
)


def all_holding(figures):
    """Return the figures by what they tried; fail unless all of them hold."""
    figures = list(figures)
    broken = [f"{each.what}: {each.seen}" for each in figures if not each.holds]
    if broken or not figures:
        pytest.fail("\n".join(broken) or "no figure")
    return {each.what: each for each in figures}

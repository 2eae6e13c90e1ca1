"""Each test of a fault fails on a build that has the fault: over each store, plain and async."""

import sys

import pytest

from tests.functions.broken_builds import BUILDS, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="builds are run in processes that are forked")


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: f"{build.fault}, {build.what}")
def test_a_build_with_the_fault_fails_the_test_of_the_fault(build, tmp_path):
    seen = run(build, tmp_path)
    assert seen.over, seen.output
    assert seen.by == seen.over, seen.output


def test_every_fault_has_its_build():
    assert {build.fault for build in BUILDS} == set(range(1, 26))

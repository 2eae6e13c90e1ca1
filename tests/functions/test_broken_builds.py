"""The tests of each fault fail on a build that has the fault, with each store and each kind of function."""

import sys

import pytest

from tests.functions.broken_builds import BUILDS
from tests.functions.building import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="builds run in forked processes")


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: f"{build.fault}, {build.what}")
def test_a_build_with_a_fault_fails_the_tests_of_the_fault(build, tmp_path):
    seen = run(build, tmp_path)
    assert seen.over, seen.output
    assert seen.by == seen.over, seen.output


def test_every_fault_has_a_build():
    assert {build.fault for build in BUILDS} == set(range(1, 26))

"""Workers killed and stopped under load, in a small size. `make proof` does it at length."""

import pytest

from proof.processes import Part, made
from tests.proof.holding import all_holding, needs_servers

pytestmark = [needs_servers, pytest.mark.timeout(180)]


@pytest.mark.fault(7, 8)
@pytest.mark.parametrize(
    "part",
    [
        Part("uvicorn", "redis", kills=1, deaths=1, stops=1, workers=2, clients=6),
        Part("gunicorn", "valkey", kills=1, deaths=0, stops=0, workers=2, clients=4),
    ],
    ids=lambda part: part.kind,
)
def test_the_promise_holds_when_workers_are_killed_and_stopped(part):
    figures = all_holding(made((part,), lambda done, of: None))
    assert len(figures) == 6

"""Both Redis layers in turn, and a proxy between a layer and its server."""

import pytest

from tests.persistence.driven import KINDS
from tests.proxy import Proxy


@pytest.fixture(params=KINDS)
def kind(request):
    """The class of a layer: blocking, then async."""
    return KINDS[request.param]


@pytest.fixture
def proxy(any_server):
    """A proxy to `any_server`, which can cut, hold back and change what passes."""
    with Proxy(any_server.port) as proxy:
        yield proxy

"""I12: no key, credential, caller, body or token where it has no business, on any surface, in any failure."""

import pytest
import redis.exceptions

from idempotency_mw.errors import IdempotencyPersistenceLayerError
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.redis_commands import translated
from idempotency_mw.testing.bench import a_claim
from tests.servers import RedisServer, binaries


@pytest.mark.row(59)
@pytest.mark.skipif(not binaries(), reason="no Redis or Valkey server was found")
def test_a_server_that_quotes_a_command_is_not_repeated():
    """Managed servers forbid commands by their names, and then tell what was asked of them."""
    claim = a_claim(token="canary-token" + "0" * 20)
    with (
        RedisServer(next(iter(binaries().values())), "--rename-command", "EVALSHA", "") as server,
        RedisPersistenceLayer.from_url(server.url, key_prefix="") as layer,
        pytest.raises(IdempotencyPersistenceLayerError) as refused,
    ):
        layer.acquire(claim)
    assert str(refused.value) == "Redis refused: unknown command 'EVALSHA'"
    assert claim.storage_key in str(refused.value.__cause__)


@pytest.mark.row(59)
def test_a_pipeline_that_quotes_its_commands_is_not_repeated():
    said = (
        "Command # 1 (EVALSHA abc 1 idempotency:5 canary-token) of pipeline caused error: NOPERM no (such) thing"
    )
    assert str(translated(redis.exceptions.ResponseError(said))) == "Redis refused: NOPERM no (such) thing"

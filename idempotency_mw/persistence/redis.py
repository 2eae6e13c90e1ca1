"""Records in Redis or Valkey: a blocking layer and an async one, the same four scripts under both.

One round trip a verb. The server's clock decides. Floor: Redis 7.0, Valkey 7.2, redis-py 5.0; only
`maxmemory-policy noeviction` keeps what was acknowledged.

    redis_layer        how a layer is built and named
    redis_blocking     the blocking layer
    redis_async        the async layer
    redis_connection   where a server is
    redis_clients      clients that keep to a deadline
    redis_commands     what is said, and what the replies mean
    redis_errors       what goes wrong, by the drivers' names
    redis_trips        several commands in one round trip
    redis_scripts/     the verbs, in Lua
    redis_checks       what can be told before the first request
    redis_dropping     clients whose event loop is over
"""

from idempotency_mw.persistence.redis_async import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.redis_blocking import RedisPersistenceLayer
from idempotency_mw.persistence.redis_connection import RedisClientProtocol, RedisConnection

__all__ = ["AsyncRedisPersistenceLayer", "RedisClientProtocol", "RedisConnection", "RedisPersistenceLayer"]

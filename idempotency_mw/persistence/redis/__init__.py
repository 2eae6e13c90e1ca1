"""Records in Redis or Valkey: a blocking layer and an async one, the same four scripts under both.

One round trip a verb. The server's clock decides. Floor: Redis 7.0, Valkey 7.2, redis-py 5.0; only
`maxmemory-policy noeviction` keeps what was acknowledged.

    layer          how a layer is built and named
    blocking       the blocking layer
    asynchronous   the async layer
    commands       what is said, and what the replies mean
    scripts/       the verbs, in Lua
    pipelines      several commands in one round trip
    errors         what goes wrong, by the drivers' names
    checks         what can be told before the first request
    address        where a server is
    clients/       redis-py's clients, built so that they keep to a deadline
    direct/        our own way to one server; knows no idempotency
    redis_py       redis-py's private names
"""

from idempotency_mw.persistence.redis.address import RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.asynchronous import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.redis.blocking import RedisPersistenceLayer

__all__ = ["AsyncRedisPersistenceLayer", "RedisClientProtocol", "RedisConnection", "RedisPersistenceLayer"]

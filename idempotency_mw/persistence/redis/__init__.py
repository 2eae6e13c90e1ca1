"""Records in Redis or Valkey: a blocking layer and an async one, with the same five scripts.

One round trip a verb. The server's clock decides. It needs Redis 7.0 or Valkey 7.2, and redis-py 5.0. A server
keeps what it acknowledged only with `maxmemory-policy noeviction`.

    layer          how a layer is built, and how its keys are named
    blocking       the blocking layer
    asynchronous   the async layer
    commands       the commands of the verbs, and what the replies mean
    scripts/       the verbs, in Lua
    pipelines      several commands in one round trip
    errors         what the drivers' errors mean, and when to try again
    checks         what can be checked before the first request
    address        where a server is
    clients/       redis-py's clients, built so that they keep to a deadline
    direct/        our own way to one server; it knows no idempotency
    redis_py       redis-py's private names, each once
"""

from idempotency_mw.persistence.redis.address import RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.asynchronous import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.redis.blocking import RedisPersistenceLayer

__all__ = ["AsyncRedisPersistenceLayer", "RedisClientProtocol", "RedisConnection", "RedisPersistenceLayer"]

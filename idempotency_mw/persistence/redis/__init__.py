"""Records in Redis or Valkey: a blocking layer and an async one, the same four scripts under both.

One round trip a verb. The server's clock decides. Floor: Redis 7.0, Valkey 7.2, redis-py 5.0; only
`maxmemory-policy noeviction` keeps what was acknowledged.

    layer          how a layer is built and named
    blocking       the blocking layer
    asynchronous   the async layer
    commands       what is said, and what the replies mean
    scripts/       the verbs, in Lua
    trips          several commands in one round trip
    errors         what goes wrong, by the drivers' names
    connection     where a server is
    clients        clients that keep to a deadline
    deadline       when a blocking verb must be over
    direct, wire   a shorter way to one server than redis-py's async client, and one connection of it
    direct_blocking, wire_blocking   the same for blocking code
    stream         what has arrived on a connection, as redis-py's parsers read
    queues         who may ask an async client at a time
    resp           what of the protocol is written here
    checks         what can be told before the first request
    dropping       clients whose event loop is over
"""

from idempotency_mw.persistence.redis.asynchronous import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.redis.blocking import RedisPersistenceLayer
from idempotency_mw.persistence.redis.connection import RedisClientProtocol, RedisConnection

__all__ = ["AsyncRedisPersistenceLayer", "RedisClientProtocol", "RedisConnection", "RedisPersistenceLayer"]

"""The options of redis-py that the direct paths heed. All others make the client the usual one."""

from typing import Final

from idempotency_mw.persistence.redis.redis_py import Options, untyped_redis

__all__ = ["are_heeded"]

_HEEDED: Final = {
    *("host", "port", "path", "db", "username", "password", "credential_provider", "client_name", "protocol"),
    *("lib_name", "lib_version", "driver_info", "decode_responses", "ssl", "socket_connect_timeout"),
    *("socket_keepalive", "socket_keepalive_options", "socket_type"),
}


def are_heeded(options: Options) -> bool:
    """Tell whether a direct path heeds all of these options."""
    # Credentials that change are announced to the usual client alone.
    changing = getattr(untyped_redis.credentials, "StreamingCredentialProvider", ())
    is_heeded = all(name in _HEEDED or name.startswith("ssl_") for name in options)
    return is_heeded and not isinstance(options.get("credential_provider"), changing)

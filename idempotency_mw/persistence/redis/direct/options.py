"""Which of redis-py's options are heeded on a direct path."""

from typing import Any

import redis.credentials

__all__ = ["are_heeded"]

_credentials: Any = redis.credentials
_HEEDED = {
    *("host", "port", "path", "db", "username", "password", "credential_provider", "client_name", "protocol"),
    *("lib_name", "lib_version", "driver_info", "decode_responses", "ssl", "socket_connect_timeout"),
    *("socket_keepalive", "socket_keepalive_options", "socket_type"),
}


def are_heeded(options: dict[str, Any]) -> bool:
    """Tell whether none of these options would be overlooked on a direct path."""
    # Credentials that change speak up, and only the usual client listens.
    changing = getattr(_credentials, "StreamingCredentialProvider", ())
    is_heeded = all(name in _HEEDED or name.startswith("ssl_") for name in options)
    return is_heeded and not isinstance(options.get("credential_provider"), changing)

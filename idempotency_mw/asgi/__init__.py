"""The middleware for ASGI apps on asyncio.

middleware   which requests are protected, and the way of one request to the decision about it
run          one run of the app, until its record is completed
incoming     what the server sends for a request
outgoing     what the app sends, and what each message calls for
lock         a fair lock, so that one message is sent at a time
types        the types that pass between an ASGI server and an app
"""

from idempotency_mw.asgi.middleware import IdempotencyMiddleware

__all__ = ["IdempotencyMiddleware"]

"""The middleware for ASGI apps on asyncio.

middleware   who is served, and the way of one request to the decision about it
run          one run of the app, until its record is completed
incoming     what the server has for a request
outgoing     what the app sends, and what each message calls for
turns        one sends at a time
types        what passes between an ASGI server and an app
"""

from idempotency_mw.asgi.middleware import IdempotencyMiddleware

__all__ = ["IdempotencyMiddleware"]

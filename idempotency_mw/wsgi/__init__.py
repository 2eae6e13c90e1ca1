"""The middleware for WSGI apps.

middleware   who is served, and the way of one request to the decision about it
run          one run of the app, as the iterable for the server
values       between PEP 3333 and our values
"""

from idempotency_mw.wsgi.middleware import IdempotencyMiddleware

__all__ = ["IdempotencyMiddleware"]

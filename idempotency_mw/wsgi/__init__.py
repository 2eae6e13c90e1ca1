"""The middleware for WSGI apps.

middleware   which requests are protected, and the way of one request to the decision about it
run          one run of the app, as the iterable for the server
pep3333      environ and headers of PEP 3333, and our values for them
"""

from idempotency_mw.wsgi.middleware import IdempotencyMiddleware

__all__ = ["IdempotencyMiddleware"]

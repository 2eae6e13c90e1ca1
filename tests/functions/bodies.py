"""Functions that the tests protect, and the context object of Lambda."""

SECRET = "4111-1111"
"""Must not be in any message."""


class DeclinedError(Exception):
    """What the functions raise."""


async def decline(payload):
    raise DeclinedError(SECRET)


def returning(result):
    """Return a body that returns this result."""

    async def body(payload):
        return result

    return body


async def work_async(payload):
    return payload


class AsyncWork:
    async def __call__(self, payload):
        return payload


class Context:
    """The context object of a Lambda invocation that has these seconds left."""

    def __init__(self, seconds):
        self.seconds = seconds

    def get_remaining_time_in_millis(self):
        return int(self.seconds * 1000)

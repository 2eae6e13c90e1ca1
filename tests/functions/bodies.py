"""Functions that the tests protect, and what they raise."""

SECRET = "4111-1111"


class DeclinedError(Exception):
    pass


async def decline(payload):
    raise DeclinedError(SECRET)


async def work_async(payload):
    return payload


class AsyncWork:
    async def __call__(self, payload):
        return payload


class Context:
    def __init__(self, seconds):
        self.seconds = seconds

    def get_remaining_time_in_millis(self):
        return int(self.seconds * 1000)

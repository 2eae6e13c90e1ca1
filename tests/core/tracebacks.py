"""Errors as a log would show them."""

import traceback

__all__ = ["SECRET", "shown"]

SECRET = "4111-1111"


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))

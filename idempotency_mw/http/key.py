"""The idempotency key of a request, from header lines or from a JSON body; or a refusal if it is invalid."""

import json
import re
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.problem import Problem, Refusal

__all__ = ["body_key", "header_key", "parse_string"]

# RFC 9651: an Item (section 4.2.3) whose bare item is a String (4.2.5), with Parameters (4.2.3.2).
# A run of plain characters is one step: an alternative for each character is six times slower.
_TEXT = r'[ !#-\[\]-~]*+(?:\\["\\][ !#-\[\]-~]*+)*+'
_STRING = f'"{_TEXT}"'
_NUMBER = r"-?(?:[0-9]{1,12}\.[0-9]{1,3}|[0-9]{1,15})(?![0-9.])"
_SYMBOL = r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*"
# Each text matches in one way only, here and in the repetition below, which is possessive. With two ways to
# match each of n parameters, a header that fails at its end would be tried in 2**n ways.
_BYTES = r":(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2,3}={0,2}|[A-Za-z0-9+/]{4}={1,2})?:"
_BOOLEAN = r"\?[01]"
_DATE = r"@-?[0-9]{1,15}(?![0-9.])"
_DISPLAY = r'%"(?:[ !#$&-~]|%[0-9a-f]{2})*"'
_BARE_ITEM = f"(?:{_STRING}|{_NUMBER}|{_SYMBOL}|{_BYTES}|{_BOOLEAN}|{_DATE}|{_DISPLAY})"
_PARAMETER = rf"; *[a-z*][a-z0-9_\-.*]*(?:={_BARE_ITEM})?"
_STRING_ITEM = re.compile(f' *"({_TEXT})"((?:{_PARAMETER})*+) *')
_DISPLAY_STRING = re.compile(f"{_STRING}|({_DISPLAY})")

_BARE = re.compile(r"[!#-+\--:<-~]+")  # visible ASCII except , ; and "
_OPAQUE = re.compile(r"[ -+\--~]+")  # visible ASCII and space, except the comma, which joins two lines
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_string(text: str) -> str | None:
    """Return the value of an RFC 9651 Item that is a String, without its parameters; None for anything else."""
    item = _STRING_ITEM.fullmatch(text)
    if item is None:
        return None
    value, parameters = item.groups()
    if parameters and not _is_utf8_throughout(parameters):
        return None
    # Each backslash begins an escape. NUL, which no String contains, stands for an escaped backslash meanwhile.
    return value.replace("\\\\", "\0").replace('\\"', '"').replace("\0", "\\")


def _is_utf8_throughout(parameters: str) -> bool:
    """Tell whether every Display String among the parameters decodes as UTF-8 (RFC 9651, section 4.2.10)."""
    for found in _DISPLAY_STRING.finditer(parameters):
        if found[1] is None:
            continue
        try:
            unquote_to_bytes(found[1][2:-1]).decode("utf-8")
        except UnicodeDecodeError:
            return False
    return True


def header_key(lines: list[bytes], config: HTTPConfig) -> str | Refusal:
    """Return the key in the header's lines, of which there is at least one."""
    if len(lines) > 1:
        return _invalid("The header came more than once.")
    try:
        text = lines[0].decode("ascii").strip(" ")
    except UnicodeDecodeError:
        return _invalid("It has a byte outside of ASCII.")
    key = _unquoted(text, config)
    if key is None:
        return _invalid(_SYNTAX_DETAIL[config.key_syntax])
    return _within_limits(key, config)


_SYNTAX_DETAIL = {
    "lenient": "Send a quoted string (RFC 9651), or a bare value without spaces, commas and semicolons.",
    "strict": "Send it as a quoted string (RFC 9651).",
    "opaque": "It may have visible ASCII characters and spaces, but no comma.",
}


def _unquoted(text: str, config: HTTPConfig) -> str | None:
    if config.key_syntax == "opaque":
        return text if _OPAQUE.fullmatch(text) else None
    if config.key_syntax == "strict" or text.startswith('"'):
        return parse_string(text)
    return text if _BARE.fullmatch(text) else None


def body_key(selected: Any, config: HTTPConfig) -> str | Refusal | None:
    """Return the key that an expression selected from a body, or None if there is none.

    A list of fields makes one key, the compact JSON array of their texts, if none of them is missing.
    """
    key = _text(selected) if not isinstance(selected, list) else _joined(cast("Sequence[object]", selected))
    return _within_limits(key, config) if isinstance(key, str) else key


def _joined(fields: Sequence[object]) -> str | Refusal | None:
    texts = [_text(field) for field in fields]
    refused = next((text for text in texts if isinstance(text, Refusal)), None)
    if refused is not None:
        return refused
    if not texts or None in texts:
        return None
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def _text(value: object) -> str | Refusal | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return _decimal(value)
    if not isinstance(value, str) or not value:
        return _invalid("In the body it has to be a string or an integer, and not empty.")
    if _UNFIT.search(value):
        return _invalid("It has a control character, or half of a surrogate pair.")
    return value


def _decimal(value: int) -> str | Refusal:
    try:
        return str(value)
    except ValueError:  # a sum with more digits than sys.get_int_max_str_digits()
        return _invalid("The number has too many digits.")


def _within_limits(key: str, config: HTTPConfig) -> str | Refusal:
    if not key.strip(" "):
        return _invalid("It is empty.")
    if not config.min_key_length <= len(key) <= config.max_key_length:
        return _invalid(f"It must have {config.min_key_length} to {config.max_key_length} characters.")
    return key


def _invalid(why: str) -> Refusal:
    return Refusal(Problem.KEY_INVALID, f"The idempotency key can't be used. {why}")

"""Draws inputs from a seed: good ones with random changes, and some that are built to be awkward.

The same seed gives the same inputs in every process, so that a finding can be repeated.
"""

import random
from collections.abc import Callable, Iterator

__all__ = ["CORPORA", "inputs"]

HEADERS = (
    b'"8e03978e-40d5-43dd-bc93-6894a57f9324"',
    b"8e03978e-40d5-43dd-bc93-6894a57f9324",
    rb'"a\"b\\c";p=1;q="x;y\"";r=?0;s=:YWJj:;t=%"f%c3%bc";u=@1659578233;v=a/b:*;w=-1.5',
    b'"' + b"a" * 255 + b'"',
    b'"a", "b"',
    b"",
)

_LINES = b"1201000045location:../orders/7\nX-A:1\nx-a:\nx-b: \xe9:;=\t\xff \nbody\r\n\x00\xff:\n"
RECORDS = (
    b"1C" + b"0" * 32 + b"000001" + b"0" * 15 + b"f" * 64 + _LINES,
    b"1P" + b"0" * 32 + b"000002" + b"9" * 15 + b"e" * 64,
    b"1N" + b"a" * 32 + b"999999" + b"0" * 15 + b"d" * 64,
)
RESPONSES = (_LINES, b"1204000000", b"1599000004a:b\n" + b"x" * 300)
RESULTS = (
    b'1V{"id":7,"paid":12.5,"at":"2026-01-01T10:00:00","lines":[{"sku":"a","count":1}],"note":null}',
    b"1Vnull",
    b"1V[1,NaN,-Infinity,1e400,true]",
    b"1Fbuiltins.ValueError",
    "1Fmödule.Outer.<locals>.Inner".encode(),
)
BODIES = (
    b'{"tenant": "t", "order": {"id": 7}, "amount": 12.5, "items": [{"id": 1}, {"id": "b"}]}',
    b'{"tenant": "\\u00fc\\ud83d\\ude00", "order": {"id": "7"}, "amount": -1e300, "items": []}',
    b'{"tenant": null, "order": {"id": true}, "amount": NaN, "items": [[[[{"id": {}}]]]]}',
    b'{"tenant": "t", "order": {"id": 1, "id": 2}, "a": ' + b"[" * 40 + b"]" * 40 + b"}",
    b'{"body": "{\\"tenant\\": \\"t\\"}", "data": "eyJ0ZW5hbnQiOiAidCJ9"}',
)
REQUESTS = (
    b'a=1&b=2&a=%C3%BC&=&&c\nrespond-async, wait=10;x="a"\nmultipart/form-data; boundary=aa\n--aa\r\n\r\nx--aa',
    b'\nwait = "5"\nMultipart/Mixed; Boundary="a b"; charset=x\n--a b\n--a b--',
    b"%&=%ff&+&%\n" + b',;\\"' * 20 + b"\napplication/problem+json;;;\n{}",
)

AWKWARD = (
    *(bytes([byte]) for byte in b'"\\;,:=%@?*-.{}[]0e\n\r\t\x00\x7f\xff &+'),
    b"\\u",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"9" * 400,
    b"9" * 4400,
    b"1e999",
    b"-0",
    b"NaN",
    b"--aa",
)


def inputs(name: str, seed: int, count: int) -> Iterator[bytes]:
    """Yield that many inputs for the named reader."""
    chance = random.Random(f"{name} {seed}")
    corpus, building = CORPORA[name]
    for _ in range(count):
        # One in five is built from scratch, and 70 % of those stay as they are. All others are changed.
        is_built = building is not None and chance.random() < 0.2
        data = building(chance) if building is not None and is_built else chance.choice(corpus)
        yield data if is_built and chance.random() < 0.7 else _changed(chance, data)


def _changed(chance: random.Random, given: bytes) -> bytes:
    data = bytearray(given)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        _change(chance, data)
    return bytes(data)


def _change(chance: random.Random, data: bytearray) -> None:
    at = chance.randint(0, len(data))
    match chance.randint(0, 6):
        case 0:
            data[at : at + 1] = bytes([chance.randint(0, 255)])
        case 1:
            data[at:at] = chance.choice(AWKWARD)
        case 2:
            del data[at : at + chance.randint(1, 8)]
        case 3:
            data[at:at] = data[chance.randint(0, len(data)) :][: chance.randint(1, 16)]
        case 4 if at < len(data):
            data[at] ^= 1 << chance.randint(0, 7)
        case 5 if data:
            data[at:at] = data[at : at + chance.randint(1, 9)] * chance.randint(1, 200)
        case _:
            del data[at:]


def _json(chance: random.Random) -> bytes:
    """Return a JSON document with the members that the reader selects, in one of several encodings."""
    members = [f'"{name}": {_value(chance, 3)}' for name in ("tenant", "order", "amount", "items", "body", "data")]
    chance.shuffle(members)
    if chance.random() < 0.1:
        members.append(members[0])
    text = "{" + ", ".join(members) + "}"
    encoding = chance.choice(("utf-8",) * 8 + ("utf-16", "utf-32", "utf-8-sig", "utf-16-le"))
    return text.encode(encoding, "surrogatepass")


def _value(chance: random.Random, depth: int) -> str:
    simple = (
        '"t"',
        "7",
        "1e5",
        "null",
        "true",
        '""',
        '"\\ud800"',
        '"\ud800"',
        '"\x00"',
        "NaN",
        "9" * 30,
        "-0.0",
        '"\\n"',
    )
    match chance.randint(0, 5) if depth else 5:
        case 0:
            return '{"id": ' + _value(chance, depth - 1) + "}"
        case 1:
            return "[" + ", ".join(_value(chance, depth - 1) for _ in range(chance.randint(0, 3))) + "]"
        case 2 if chance.random() < 0.1:
            deep = chance.choice((50, 500, 900, 1100, 5000))
            return "[" * deep + "]" * deep if chance.random() < 0.5 else '{"id":' * deep + "1" + "}" * deep
        case _:
            return chance.choice(simple)


def _item(chance: random.Random) -> bytes:
    """Return an RFC 9651 string with parameters, valid or nearly so."""
    values = (
        b"",
        b"=1",
        b"=-1.5",
        b'="x;\\""',
        b"=?1",
        b"=:YQ==:",
        b"=@1",
        b'=%"%c3%bc"',
        b"=tok/en:*",
        b'=%"%ff"',
        b"=:Y:",
    )
    text = bytes(chance.choice(b'abc019-_~ !\\"#;,=') for _ in range(chance.randint(0, 12)))
    text = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') if chance.random() < 0.8 else text
    parameters = b"".join(
        b";" + b" " * chance.randint(0, 2) + b"p" + chance.choice(values) for _ in range(chance.randint(0, 9))
    )
    return b" " * chance.randint(0, 2) + b'"' + text * chance.choice((1, 1, 1, 30)) + b'"' + parameters


def _frame(chance: random.Random) -> bytes:
    """Return a record, well formed except for one field in half of the cases."""
    fields = [
        chance.choice((b"1", b"1", b"1", b"2", b"0")),
        chance.choice((b"P", b"C", b"C", b"N", b"X")),
        b"%032x" % chance.getrandbits(128),
        b"%06d" % chance.choice((0, 1, 7, 999_999)),
        b"%015d" % chance.choice((0, 1, 1_700_000_000_000, 10**15 - 1)),
        b"%064x" % chance.getrandbits(256),
        chance.choice((b"", b"", *RESPONSES, *RESULTS)),
    ]
    if chance.random() < 0.5:
        at = chance.randrange(len(fields))
        fields[at] = chance.choice(
            (b"", fields[at][1:], fields[at] + b"0", fields[at].upper(), b"-" + fields[at][1:])
        )
    return b"".join(fields)


Building = Callable[[random.Random], bytes]

CORPORA: dict[str, tuple[tuple[bytes, ...], Building | None]] = {
    "header": (HEADERS, _item),
    "record": (RECORDS, _frame),
    "body": (BODIES, _json),
    "response": (RESPONSES, None),
    "result": (RESULTS, None),
    "request": (REQUESTS, None),
}

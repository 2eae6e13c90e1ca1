"""Keys from payloads: equal for equal data, and the same in every process, on every Python, in every release."""

import json
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import jmespath
import pytest
from pydantic import BaseModel, SecretStr

from idempotency_mw.calls import Call
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.errors import IdempotencyKeyError
from idempotency_mw.functions.plain import plain, plain_payload
from tests.functions.golden import CUSTOMER, LINE, OF_MODELS, PAYLOADS, golden

PINNED = json.loads(Path(__file__).with_name("golden_keys.json").read_text("utf-8"))
ROOT = Path(__file__).parents[2]


# The storage key of every record in every store depends on these: a change here orphans all records.
def test_the_golden_keys_are_pinned():
    assert golden() == PINNED


def test_the_fingerprint_of_a_call_without_a_validated_payload_is_pinned():
    assert Call("a").operation(IdempotencyConfig()).fingerprint == sha256(b"8:function4:null").hexdigest()


def printed(interpreter, **environment):
    """Return the keys as another process computes them; those of models only if it can import pydantic."""
    done = subprocess.run(
        [interpreter, Path(__file__).with_name("golden.py")],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", ["0", "77"])
def test_another_process_with_another_hash_seed_has_the_same_keys(seed):
    assert printed(sys.executable, PYTHONHASHSEED=seed, PYTHONPATH=str(ROOT)) == PINNED


def interpreter_of(version):
    """Return the path of this version's interpreter; a shim of pyenv needs PYENV_VERSION to run it."""
    found = shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"there is no python{version}")
    code = "import sys; print(sys.executable)"
    asked = subprocess.run(
        [found, "-c", code], env=os.environ | {"PYENV_VERSION": version}, capture_output=True, text=True
    )
    if asked.returncode != 0:
        pytest.skip(f"python{version} does not run")
    return asked.stdout.strip()


OTHERS = [f"3.{minor}" for minor in range(11, 15) if minor != sys.version_info.minor]


@pytest.mark.parametrize("version", OTHERS)
def test_another_python_has_the_same_keys(version):
    # That Python may have no packages: it needs jmespath alone, which is pure Python.
    path = os.pathsep.join((str(ROOT), str(Path(jmespath.__file__).parents[1])))
    keys = printed(interpreter_of(version), PYTHONHASHSEED="77", PYTHONPATH=path)
    assert {name: PINNED[name] for name in PINNED if name in keys} == keys
    assert PINNED.keys() - keys.keys() <= OF_MODELS


def test_different_payloads_have_different_keys():
    keys = [storage_key for storage_key, _ in golden().values()]
    assert len(set(keys)) == len(keys)


def test_a_subclass_of_str_or_int_is_its_text_or_number():
    class Reference(str):
        __slots__ = ()

    class Cents(int):
        pass

    assert plain({"reference": Reference("a"), "amount": Cents(5)}) == {"reference": "a", "amount": 5}


class Pair(NamedTuple):
    name: str
    amount: int


def test_a_payload_is_its_data_whatever_its_class():
    line = {"sku": "00000000-0000-0000-0000-000000000007", "price": "1.50"}
    assert plain(LINE) == plain(OrderedDict(line)) == line
    assert plain(CUSTOMER) == {"name": "Ada", "born": "1815-12-10", "home": "/home/ada"}
    assert plain(Pair("a", 1)) == plain(["a", 1]) == plain(("a", 1)) == ["a", 1]
    assert plain(PAYLOADS["enums"]) == ["red", 3, "ada"]
    assert plain(PAYLOADS["path"]) == "a/b"
    assert plain(PAYLOADS["names"])["null"] == "c"


class Account(BaseModel):
    number: SecretStr


CYCLE = []
CYCLE.append(CYCLE)


class Breaks(BaseModel):
    def model_dump(self, **options):
        raise RuntimeError("4111-1111")


@pytest.mark.parametrize(
    "payload",
    [
        object(),
        b"4111-1111",
        {"4111-1111"},
        Account(number="4111-1111"),
        Account,
        Breaks(),
        CYCLE,
        {1: "a", "1": "b"},
        {(1, 2): "4111-1111"},
        lambda: None,
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_a_payload_without_a_plain_form_is_a_key_error_that_does_not_quote_it(payload):
    with pytest.raises(IdempotencyKeyError) as caught:
        plain_payload(payload)
    assert "4111" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__

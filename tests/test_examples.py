"""The examples run: the payment service's routes, and the demo as a user starts it."""

import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAYMENT = {"order": "order-1", "amount": 1250}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module, with files of its own and a card network that answers at once."""
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path))
    monkeypatch.setenv("CARD_NETWORK_SECONDS", "0")
    monkeypatch.delenv("REDIS_URL", raising=False)
    spec = importlib.util.spec_from_file_location("fastapi_app", ROOT / "examples" / "fastapi_app.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fastapi_app", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def client(example: ModuleType) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=example.app)
    async with (
        example.app.router.lifespan_context(example.app),
        httpx.AsyncClient(transport=transport, base_url="http://payments.example") as client,
    ):
        yield client


def keyed(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": f'"{key or uuid4()}"'}


async def runs(client: httpx.AsyncClient, subject: str) -> int:
    return len((await client.get("/ledger", params={"subject": subject})).json())


def is_replay(answer: httpx.Response, first: httpx.Response) -> bool:
    same = (answer.status_code, answer.content) == (first.status_code, first.content)
    return same and answer.headers.get("idempotent-replayed") == "true"


async def test_a_payment_is_made_once_and_its_answer_is_replayed(client: httpx.AsyncClient) -> None:
    headers = keyed()
    first = await client.post("/payments", json=PAYMENT, headers=headers)
    again = await client.post("/payments", json=PAYMENT, headers=headers)
    assert (first.status_code, first.json()["attempt"]) == (201, 1)
    assert "idempotent-replayed" not in first.headers
    assert is_replay(again, first)
    assert again.headers["location"] == first.headers["location"]
    assert await runs(client, "order-1") == 1


async def test_the_location_of_a_payment_leads_to_it(client: httpx.AsyncClient) -> None:
    order = {"order": "a b&c", "amount": 1}
    first = await client.post("/payments", json=order, headers=keyed())
    found = await client.get(first.headers["location"])
    assert found.json() == [first.json()]


async def test_another_amount_under_the_same_key_moves_no_money(client: httpx.AsyncClient) -> None:
    headers = keyed()
    await client.post("/payments", json=PAYMENT, headers=headers)
    other = await client.post("/payments", json={**PAYMENT, "amount": 1}, headers=headers)
    assert other.status_code == 422
    assert other.json()["type"].endswith(":key-reused")
    assert await runs(client, "order-1") == 1


@pytest.mark.parametrize("path", ["/payments", "/refunds", "/charges", "/exports"])
async def test_every_post_requires_a_key(client: httpx.AsyncClient, path: str) -> None:
    refused = await client.post(path, json=PAYMENT)
    assert refused.status_code == 400
    assert refused.json()["type"].endswith(":key-missing")
    assert (await client.get("/ledger")).json() == []


async def test_a_refund_takes_its_key_from_the_body_only(client: httpx.AsyncClient) -> None:
    body = {**PAYMENT, "idempotency_key": "refund-of-order-1"}
    first = await client.post("/refunds", json=body)
    again = await client.post("/refunds", json=body, headers=keyed())
    assert (first.status_code, first.json()["amount"]) == (201, -1250)
    assert is_replay(again, first)
    assert await runs(client, "order-1") == 1


async def test_a_streamed_export_is_replayed_whole_and_with_its_length(client: httpx.AsyncClient) -> None:
    headers, body = keyed(), {"name": "report-1", "pages": 2}
    first = await client.post("/exports", json=body, headers=headers)
    again = await client.post("/exports", json=body, headers=headers)
    assert "content-length" not in first.headers
    assert first.text.count("\n") == 200
    assert is_replay(again, first)
    assert again.headers["content-length"] == str(len(first.content))


async def test_all_attempts_send_the_card_network_the_same_key_and_other_routes_another(
    client: httpx.AsyncClient, example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def failing_once(amount: int, key: str, seconds: float) -> str:
        asked.append(key)
        if len(asked) == 1:
            raise ConnectionError("the card network is not there")
        return "reference"

    monkeypatch.setattr(example, "card_network", failing_once)
    headers = keyed()
    with pytest.raises(ConnectionError):
        await client.post("/payments", json=PAYMENT, headers=headers)
    second = await client.post("/payments", json=PAYMENT, headers=headers)
    await client.post("/charges", json=PAYMENT, headers=headers)
    assert second.status_code == 201
    assert asked[0] == asked[1] != asked[2]


async def test_a_browser_on_the_shops_origin_may_send_a_key_and_read_a_refusal(client: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://shop.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}
    preflight = await client.options("/payments", headers={**origin, **asked})
    refused = await client.post("/payments", json=PAYMENT, headers=origin)
    assert preflight.status_code == 200
    assert refused.status_code == 400
    assert refused.headers["access-control-allow-origin"] == origin["Origin"]


@pytest.mark.fault(7, 11, 24)
@pytest.mark.row(35, 36, 37, 48, 51, 76, 86)
def test_the_demo_keeps_every_promise_on_real_processes() -> None:
    # Most of the time they wait for leases to lapse, so both run at the same time.
    demos = [
        subprocess.Popen(
            [sys.executable, "tools/demo.py", *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for options in ([], ["--redis"])
    ]
    for demo in demos:
        told = demo.communicate(timeout=55)[0].decode()
        assert demo.returncode == 0, told
        assert "15 of 15 as promised" in told
        assert "\x1b" not in told

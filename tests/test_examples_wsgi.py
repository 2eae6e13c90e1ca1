"""The WSGI examples run, each on gunicorn with two workers forked from one process."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import httpx
import pytest

from tests.asgi.serving import Server, complaints, is_replay, slug

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs fork")

EXAMPLES = Path(__file__).parents[1] / "examples"


class Gunicorn(Server):
    commands: ClassVar = {
        "gunicorn": f"gunicorn {{app}} --pythonpath {EXAMPLES} --bind 127.0.0.1:{{port}} --workers {{workers}}",
    }
    ready: ClassVar = {"flask_app:app": "/bookings", "django_app:application": "/shipments"}

    def _is_ready(self) -> bool:
        app = self._command[1]
        try:
            return httpx.get(self.url + self.ready[app], timeout=10, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def served(app: str, folder: Path, monkeypatch: pytest.MonkeyPatch, url: str | None) -> Iterator[Gunicorn]:
    monkeypatch.setenv("DATA_FOLDER", str(folder))
    monkeypatch.setenv("PRINTER_SECONDS", "0.1")
    if url is None:
        monkeypatch.delenv("REDIS_URL", raising=False)
    else:
        monkeypatch.setenv("REDIS_URL", url)
    with Gunicorn("gunicorn", folder, store="", app=app, workers=2) as server:
        yield server
    assert complaints(server.new_log()) == []


@pytest.fixture(scope="module", params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("any_server").url if request.param == "valkey" else None


@pytest.fixture(scope="module")
def flask(tmp_path_factory: pytest.TempPathFactory, url: str | None) -> Iterator[Gunicorn]:
    with pytest.MonkeyPatch.context() as patch:
        yield from served("flask_app:app", tmp_path_factory.mktemp("flask"), patch, url)


@pytest.fixture(scope="module")
def django(tmp_path_factory: pytest.TempPathFactory, url: str | None) -> Iterator[Gunicorn]:
    with pytest.MonkeyPatch.context() as patch:
        yield from served("django_app:application", tmp_path_factory.mktemp("django"), patch, url)


@pytest.fixture
async def office(flask: Gunicorn) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"X-API-Key": "secret-of-north"}
    async with httpx.AsyncClient(base_url=flask.url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
async def receiver(django: Gunicorn) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=django.url, trust_env=False) as client:
        yield client


def keyed() -> dict[str, str]:
    return {"Idempotency-Key": f'"{uuid4()}"'}


def event(**changes: Any) -> dict[str, Any]:
    name = uuid4().hex
    return {"id": f"evt_{name}", "delivery": 1, "data": {"order": f"order-{name}"}, **changes}


async def booked(office: httpx.AsyncClient, seat: str) -> list[dict[str, Any]]:
    return [booking for booking in (await office.get("/bookings")).json() if booking["seat"] == seat]


async def test_a_seat_is_booked_once_and_any_worker_replays_the_answer(office):
    headers, seat = keyed(), uuid4().hex
    first = await office.post("/bookings", json={"seat": seat}, headers=headers)
    retries = [await office.post("/bookings", json={"seat": seat}, headers=headers) for _ in range(10)]
    assert (first.status_code, first.json()["attempt"], is_replay(first)) == (201, 1, False)
    assert {(retry.status_code, retry.content, is_replay(retry)) for retry in retries} == {
        (201, first.content, True)
    }
    assert len(await booked(office, seat)) == 1


@pytest.mark.row(39)
async def test_one_of_many_simultaneous_bookings_is_made(office):
    headers, seat = keyed(), uuid4().hex
    answers = await asyncio.gather(
        *(office.post("/bookings", json={"seat": seat}, headers=headers) for _ in range(10))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len(await booked(office, seat)) == 1


async def test_two_agencies_may_choose_the_same_key(office):
    headers, seat = keyed(), uuid4().hex
    north = await office.post("/bookings", json={"seat": seat}, headers=headers)
    south = await office.post(
        "/bookings", json={"seat": seat}, headers={**headers, "X-API-Key": "secret-of-south"}
    )
    assert (south.status_code, is_replay(south)) == (201, False)
    assert north.json()["agency"] != south.json()["agency"]


async def test_a_stranger_a_missing_key_and_another_seat_are_refused(office):
    headers, seat = keyed(), uuid4().hex
    await office.post("/bookings", json={"seat": seat}, headers=headers)
    stranger = await office.post("/bookings", json={"seat": seat}, headers={**headers, "X-API-Key": "guessed"})
    keyless = await office.post("/bookings", json={"seat": seat})
    other = await office.post("/bookings", json={"seat": "another"}, headers=headers)
    assert [slug(answer) for answer in (stranger, keyless, other)] == [
        "caller-missing",
        "key-missing",
        "key-reused",
    ]
    assert len(await booked(office, seat)) == 1


async def test_an_invalid_request_is_not_stored(office):
    headers = keyed()
    mistaken = await office.post("/bookings", json={"seat": 1}, headers=headers)
    again = await office.post("/bookings", json={"seat": 1}, headers=headers)
    assert (mistaken.status_code, again.status_code, is_replay(again)) == (422, 422, False)


async def test_a_plan_is_streamed_and_replayed_whole(office):
    headers = keyed()
    first = await office.post("/plans", json={"rows": 5}, headers=headers)
    again = await office.post("/plans", json={"rows": 5}, headers=headers)
    assert first.headers["transfer-encoding"] == "chunked"
    assert first.text.count("\n") == 20
    assert (again.content, is_replay(again)) == (first.content, True)
    assert again.headers["content-length"] == str(len(first.content))


@pytest.mark.row(24, 101)
async def test_an_event_that_is_delivered_five_times_is_processed_once(receiver):
    sent = event()
    answers = [await receiver.post("/webhooks", json={**sent, "delivery": number}) for number in range(1, 6)]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert [is_replay(answer) for answer in answers] == [False, True, True, True, True]
    assert (await receiver.get("/shipments")).json().count(sent["data"]["order"]) == 1


@pytest.mark.row(26, 36)
async def test_an_event_without_an_id_or_with_other_data_is_refused(receiver):
    sent = event()
    await receiver.post("/webhooks", json=sent)
    altered = await receiver.post("/webhooks", json={**sent, "data": {"order": "another"}})
    nameless = await receiver.post("/webhooks", json=event(id=None))
    assert (slug(altered), slug(nameless)) == ("key-reused", "key-missing")
    assert "another" not in (await receiver.get("/shipments")).json()

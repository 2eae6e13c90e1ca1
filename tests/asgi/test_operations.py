"""Rows 54a, 55, 83, 84 and 88: which requests are the same operation."""

import pytest

from tests.asgi.driver import Answer, ASGISurface


@pytest.mark.row(55)
async def test_the_same_key_with_another_method_or_path_is_another_operation(surface, store):
    service = surface(store)
    answers: list[Answer] = [
        await service.request(),
        await service.request(method="PATCH"),
        await service.request(path="/other"),
        await service.request(path="/pay/"),
    ]
    assert [(answer.status, answer.replayed) for answer in answers] == 4 * [(200, False)]
    assert service.runs == 4


@pytest.mark.row(83)
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("/api/pay", "/api"), ("/pay", "/api"), True),
        (("/api/pay", "/api/"), ("/pay", "/api/"), True),
        (("/api/pay", "/api/"), ("/pay", "/api"), True),
        (("/api/pay", ""), ("/pay", "/api"), True),
        (("/api", "/api"), ("/api", ""), True),
        (("/apiary", "/api"), ("/api/apiary", ""), True),
        (("/pay", "/a"), ("/pay", "/b"), False),
        (("/pay", ""), ("/pay", "/a"), False),
        (("/p\u00e4y", "/\u00e4"), ("/\u00e4/p\u00e4y", ""), True),
    ],
)
async def test_a_mounted_path_is_the_same_whether_or_not_it_repeats_the_root_path(memory, one, other, same):
    service = ASGISurface(memory)
    await service.request(path=one[0], root_path=one[1])
    assert (await service.request(path=other[0], root_path=other[1])).replayed is same


@pytest.mark.row(83)
async def test_a_scope_without_root_path_and_query_is_accepted(memory):
    conversation = ASGISurface(memory).conversation()
    del conversation.scope["root_path"]
    del conversation.scope["query_string"]
    assert (await conversation.run()).ok().status == 200


@pytest.mark.row(84)
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"a=1&b=2", b"b=2&a=1", True),
        (b"a=1&a=2", b"a=2&a=1", False),
        (b"a=1&b=2&a=3", b"b=2&a=1&a=3", True),
        (b"a=%31", b"a=1", True),
        (b"a", b"a=", True),
        (b"", b"a=1", False),
    ],
)
async def test_in_a_query_the_order_of_values_matters_and_that_of_names_does_not(memory, one, other, same):
    service = ASGISurface(memory)
    await service.request(query=one)
    retry = await service.request(query=other)
    assert retry.replayed if same else retry.slug == "key-reused"


def multipart(boundary: str, value: bytes = b"1") -> dict:
    text = boundary.encode()
    body = b"--%b\r\nContent-Disposition: form-data; name=a\r\n\r\n%b\r\n--%b--\r\n" % (text, value, text)
    return {"body": body, "headers": [("content-type", f'multipart/form-data; boundary="{boundary}"')]}


@pytest.mark.row(88)
async def test_a_multipart_retry_with_a_new_boundary_is_the_same_request(memory):
    service = ASGISurface(memory)
    await service.request(**multipart("first"))
    assert (await service.request(**multipart("second-and-longer"))).replayed
    assert (await service.request(**multipart("third", b"2"))).slug == "key-reused"

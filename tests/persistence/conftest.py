"""Servers, a cluster, a Sentinel and a certificate for the tests of this folder."""

import shutil
import subprocess

import pytest

from tests.clusters import RedisCluster, RedisSentinel
from tests.servers import binaries, binary_named, each_binary


@pytest.fixture(scope="session")
def any_binary():
    """One server binary, for tests that would show the same on any other."""
    found = binaries()
    if not found:
        pytest.skip("no Redis or Valkey server was found")
    return next(iter(found.values()))


@pytest.fixture(scope="session", params=each_binary())
def every_binary(request):
    """Each server binary in turn, for tests that start a server of their own and depend on its version."""
    return binary_named(request.param)


@pytest.fixture(scope="session")
def cluster(any_binary):
    """A cluster of three masters."""
    with RedisCluster(any_binary) as started:
        yield started


@pytest.fixture(scope="session")
def sentinel(any_server, any_binary):
    """A Sentinel that watches `any_server`."""
    with RedisSentinel(any_binary, any_server) as started:
        yield started


@pytest.fixture
def guarded(server):
    """The address of a server that has the user `me` with the password `right`."""
    with server.client() as store:
        store.execute_command("ACL", "SETUSER", "me", "reset", "on", ">right", "allkeys", "allcommands")
        yield f"127.0.0.1:{server.port}"
        store.execute_command("ACL", "DELUSER", "me")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost. The servers here don't speak TLS; a relay in front of them does."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, was not found")
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", made[0], "-keyout", made[1]),
        ],
        check=True,
        capture_output=True,
    )
    return made

import socket
import threading
import time

import pytest

from iw_jax.data.network import answers

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_set(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_open_port_answers(port):
    assert answers(f"http://127.0.0.1:{port}")


def test_a_closed_port_does_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    assert not answers(f"http://127.0.0.1:{closed}")


def test_behind_a_proxy_the_proxy_is_asked(port, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    assert answers("https://no-such-host.invalid")


def test_a_name_server_that_hangs_is_given_up(monkeypatch):
    released = threading.Event()

    def hang(*_, **__):
        released.wait(10)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    assert not answers("https://example.org", timeout=0.2)
    assert time.monotonic() - start < 5
    released.set()

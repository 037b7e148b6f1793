"""Is there a network? Answered within seconds."""

import socket
import threading
import urllib.parse
import urllib.request

_PORTS = {"http": 80, "https": 443}


def answers(url: str, *, timeout: float = 3.0) -> bool:
    """Whether a connection to the host of `url` can be opened; behind a proxy, to the proxy.

    Args:
      url: scheme and host, `https://example.org`.
      timeout: seconds until the answer is no.
    """
    target = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.netloc):
        target = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    address = target.hostname, target.port or _PORTS.get(target.scheme, 80)
    reached = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=timeout).close()
        except OSError:
            return
        reached.set()

    # In a thread, because looking up a name has no timeout of its own.
    prober = threading.Thread(target=connect, daemon=True)
    prober.start()
    prober.join(timeout)
    return reached.is_set()

"""One HTTP request of the crawler: to an address that was checked, with limits on everything.

The name is resolved once, every address it stands for is checked, and the connection goes to the address that was
checked: a name that answers with a public address first and a private one later (DNS rebinding) gains nothing. Private,
loopback, link-local and other special addresses are refused unless they were allowed. Redirects are not followed here;
the crawler treats them as links.

The standard library's client, because it takes a socket of ours and hands over headers as they came.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


class FetchError(Exception):
    """Why there is no answer. `again` says whether another try may help."""

    def __init__(self, reason: str, detail: str, again: bool) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.again = reason, detail, again


@dataclass(frozen=True)
class Answer:
    """What a server said; `body` is None when its type or size was not wanted."""

    url: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes | None
    address: str
    refused: str = ""  # why there is no body: "content_type", "too_large"

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


def fetch(
    url: str,
    *,
    user_agent: str,
    content_types: tuple[str, ...] = (),
    max_bytes: int = 8 << 20,
    timeout: float = 20.0,
    allow_private: bool = False,
) -> Answer:
    """GET one address. `content_types` empty takes all. Raises FetchError."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    address = _checked_address(host, port, allow_private)
    deadline = time.monotonic() + 3 * timeout  # a server that sends one byte a second is no server
    connection: http.client.HTTPConnection | None = None
    try:
        raw = socket.create_connection((address, port), timeout)
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Host": parts.netloc, "User-Agent": user_agent, "Accept-Encoding": "identity", "Connection": "close"}
        connection.request("GET", target, headers=headers | {"Accept": "text/html, text/plain;q=0.9, */*;q=0.1"})
        answer = connection.getresponse()
        kind = (answer.headers.get_content_type() if answer.headers.get("Content-Type") else "").lower()
        refused = "content_type" if content_types and answer.status == 200 and kind not in content_types else ""
        body = None if refused else _body(answer, max_bytes, deadline)
        if body is None and not refused:
            refused = "too_large"
        return Answer(url, answer.status, answer.reason, answer.getheaders(), body, address, refused)
    except ssl.SSLCertVerificationError as error:
        raise FetchError("certificate", str(error), again=False) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError("unreachable", f"{type(error).__name__}: {error}", again=True) from None
    finally:
        if connection is not None:
            connection.close()


def _body(answer: http.client.HTTPResponse, max_bytes: int, deadline: float) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while chunk := answer.read1(1 << 16):
        size += len(chunk)
        if size > max_bytes:
            return None
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
        parts.append(chunk)
    declared = answer.headers.get("Content-Length", "")
    if declared.isdigit() and size < int(declared):
        raise http.client.IncompleteRead(b"", int(declared) - size)
    return b"".join(parts)


def _checked_address(host: str, port: int, allow_private: bool) -> str:
    """The address to connect to. Refuses a name as soon as one of its addresses is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError("unreachable", f"{host}: {error}", again=True) from None
    addresses = [str(info[4][0]) for info in found]
    for address in addresses:
        ip = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None) or ip
        if not allow_private and not (mapped.is_global and not mapped.is_multicast):
            raise FetchError("private_address", f"{host} is {address}", again=False)
    return addresses[0]

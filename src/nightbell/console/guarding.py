"""What every request must pass before a page sees it, and what every answer carries.

Host allow-list first (a page of the attacker's whose name resolves to 127.0.0.1 must get nothing), then the body's size, then for
everything but GET and HEAD the origin. The token of the form is checked by the page, which knows the session.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nightbell.console.users import Session

__all__ = ["HEADERS", "Guard", "token_is_right", "why_foreign"]

LARGEST_BODY_BYTES: Final = 64 * 1024
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; worker-src 'self'; "
        "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Frame-Options": "DENY",
}


def why_foreign(headers: Headers, scheme: str) -> str:
    """Why an unsafe request does not come from our own page; empty when it does."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return "" if site == "same-origin" else f"the request comes from another site ({site})"
    origin = headers.get("origin")
    if origin is None:
        return "the request does not say where it comes from"
    return "" if origin == f"{scheme}://{headers.get('host', '')}" else f"the request comes from {origin[:100]}"


def token_is_right(session: Session, given: object) -> bool:
    """Whether the form was made for this session."""
    return isinstance(given, str) and hmac.compare_digest(given.encode(), session.token.encode())


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], secure: bool) -> None:
        self._app, self._hosts, self._secure = app, hosts, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no page here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        refusal = self._why_refused(scope, headers)
        if refusal is not None:
            await self._finish(refusal)(scope, receive, self._dressed(send))
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > LARGEST_BODY_BYTES:
                raise HTTPException(413, "the request is larger than 64 KiB")
            return message

        await self._app(scope, counted, self._dressed(send))

    def _why_refused(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        if len(headers.getlist("host")) != 1 or headers["host"].lower() not in self._hosts:
            return 421, "this console does not answer to that name"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "only GET and POST"
        if len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) > 8192:
            return 414, "the address is too long"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > LARGEST_BODY_BYTES:
            return 413, "the request is larger than 64 KiB"
        if scope["method"] == "POST":
            foreign = why_foreign(headers, "https" if self._secure else "http")
            if foreign:
                return 403, foreign
        return None

    @staticmethod
    def _finish(refusal: tuple[int, str]) -> PlainTextResponse:
        return PlainTextResponse(f"{refusal[1]}\n", status_code=refusal[0])

    def _dressed(self, send: Send) -> Send:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if self._secure:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        return dressed

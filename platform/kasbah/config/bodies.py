"""A bound on request bodies before Django, which would write a body of any size to the disk before it looks at it."""

from __future__ import annotations

import json
from typing import Any

from kasbah.common.api_errors import body
from kasbah.common.errors import TooLarge
from kasbah.common.ids import uuid7
from kasbah.common.requestid import HEADER


class BodyLimit:
    """An ASGI application that answers 413 once a body is over `most` bytes, announced or not."""

    def __init__(self, app: Any, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the request, or refuse its body."""
        if scope["type"] == "http" and _announced(scope) > self._most:
            await self._refuse(send)
            return
        seen, refused = 0, False

        async def bounded_receive() -> Any:
            nonlocal seen, refused
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._most:
                    refused = True
                    return {"type": "http.disconnect"}  # Django gives up, silently
            return message

        await self._app(scope, bounded_receive, send)
        if refused:
            await self._refuse(send)

    async def _refuse(self, send: Any) -> None:
        content = json.dumps(body(TooLarge(f"The body is over {self._most} bytes."))).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),  # the rest of the body is not read
            (HEADER.encode(), f"req_{uuid7().hex}".encode()),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _announced(scope: Any) -> int:
    """Content-Length; a server has checked that it is a number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)

"""The real WebSocket under a stream."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from gpumarket.sdk.streams import Connect, Socket

_OPEN_TIMEOUT_S = 10
_MAX_FRAME_BYTES = 1 << 20


def dial(url: str) -> Connect:
    """A way to open `url` (http or ws), as often as needed."""
    address = "ws" + url.removeprefix("http") if url.startswith("http") else url

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Socket]:
        try:
            connection = await connect(
                address, open_timeout=_OPEN_TIMEOUT_S, close_timeout=1, max_size=_MAX_FRAME_BYTES, proxy=None
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ConnectionError(f"{url}: {error}") from error
        try:
            yield _TextSocket(connection)
        finally:
            await connection.close()

    return opened


class _TextSocket:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise ConnectionError(str(error)) from error

    async def receive(self) -> str:
        try:
            frame = await self._connection.recv()
        except ConnectionClosed as error:
            raise ConnectionError(str(error)) from error
        return frame if isinstance(frame, str) else frame.decode()

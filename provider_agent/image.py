"""Gets a job's image onto this machine: every block fetched and hashed, then judged, before the engine hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import httpx

from gpumarket.errors import MarketError
from gpumarket.images.image import read_image
from gpumarket.images.policy import Policy, check, check_content
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.fetch import fetch
from gpumarket.ipfs.store import BlockStore
from provider_agent.sources import Resolve, public_sources

Progress = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all or None)."""


class Images(Protocol):
    """Where jobs' images come from and stay while they are needed."""

    async def prepare(self, root: Cid, sources: Sequence[str], progress: Progress, timeout: float) -> str: ...

    async def release(self, root: Cid) -> None: ...


class ImageDesk:
    """Images in a block store.

    Args:
        gateways: trustless gateways to ask after the job's own sources.
        resolve: how sources in this host's own network are recognised and left out; None to ask them too.
    """

    def __init__(
        self,
        store: BlockStore,
        http: httpx.AsyncClient,
        policy: Policy,
        gateways: Sequence[str],
        resolve: Resolve | None,
    ) -> None:
        self._store = store
        self._http = http
        self._policy = policy
        self._gateways = tuple(gateways)
        self._resolve = resolve

    async def prepare(self, root: Cid, sources: Sequence[str], progress: Progress, timeout: float) -> str:
        """Fetch what is missing, verify, check against the host's policy, pin.

        What arrived stays in the store: after an interruption the fetch goes on where it was.

        Returns:
            The digest of the image's manifest, `sha256:<hex>`.

        Raises:
            MarketError: `image_*`, `content_malformed`, `source_unreachable`, `disk_full`.
        """
        asked = tuple(sources) if self._resolve is None else await public_sources(sources, self._resolve)
        everywhere = (*asked, *self._gateways)
        limit = self._policy.max_bytes
        try:
            async with asyncio.timeout(timeout):
                await fetch(root, self._store, everywhere, max_bytes=limit, http=self._http, progress=progress)
                return await asyncio.to_thread(self._judge, root)
        except TimeoutError:
            raise MarketError("source_unreachable", f"the image did not arrive within {timeout:.0f} s") from None

    async def release(self, root: Cid) -> None:
        """Let the image go; its blocks stay until the store needs their room."""
        await asyncio.to_thread(self._store.unpin, root)

    def _judge(self, root: Cid) -> str:
        image = read_image(self._store, root)
        check(image, self._policy)
        check_content(self._store, image, self._policy)
        self._store.pin(root, "image")
        return image.manifest_digest

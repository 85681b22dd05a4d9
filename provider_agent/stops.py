"""Why the runtime itself ended a container, kept on disk: the engine does not know it, and the agent may restart."""

from __future__ import annotations

import contextlib
from pathlib import Path


class StopReasons:
    """One small file for each container that was ended. Every method blocks, shortly.

    Args:
        directory: where the files are kept; made when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, container: str, reason: str) -> None:
        """Remember the reason; call it before the container is ended. A full disk loses the reason, no more."""
        file = self._file(container)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_suffix(".new")
            fresh.write_text(reason)
            fresh.rename(file)

    def of(self, container: str) -> str:
        """The reason, "" if the runtime did not end this container."""
        try:
            return self._file(container).read_text()
        except FileNotFoundError:
            return ""

    def forget(self, container: str) -> None:
        self._file(container).unlink(missing_ok=True)

    def _file(self, container: str) -> Path:
        return self._directory / f"{container}.stopped"

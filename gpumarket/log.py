"""JSON-lines logging: a constant message, typed fields, no secrets.

`log.info("job accepted", job_id=..., resource_id=...)` writes one line to standard error. Fields whose names
suggest a secret are masked, and so is any 32-byte hex value under such a name; the message itself never carries data.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, TextIO

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SECRET_WORDS = ("private", "secret", "passphrase", "password", "mnemonic", "token_value", "api_key", "authorization")


def _safe(name: str, value: Any) -> Any:
    if any(word in name.lower() for word in _SECRET_WORDS):
        return "***"
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {str(k): _safe(str(k), v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_safe(name, v) for v in value]
    return value


@dataclass(frozen=True)
class Log:
    """A logger with bound fields. `bind` returns a child; nothing is global."""

    service: str
    level: str = "info"
    fields: dict[str, Any] = field(default_factory=dict)
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def bind(self, **fields: Any) -> Log:
        return Log(self.service, self.level, {**self.fields, **fields}, self.stream)

    def debug(self, message: str, **fields: Any) -> None:
        self._write("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._write("warning", message, fields)

    def error(self, message: str, *, error: BaseException | None = None, **fields: Any) -> None:
        if error is not None:
            fields |= {"error": f"{type(error).__name__}: {error}", "code": getattr(error, "code", "internal")}
            if fields["code"] == "internal":
                fields["trace"] = traceback.format_exception(error)
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        if _LEVELS[level] < _LEVELS[self.level]:
            return
        entry = {"ts": round(time.time(), 3), "level": level, "service": self.service, "message": message}
        for name, value in {**self.fields, **fields}.items():
            entry[name] = _safe(name, value)
        self.stream.write(json.dumps(entry, default=str) + "\n")
        self.stream.flush()

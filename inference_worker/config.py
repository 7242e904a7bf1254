"""What a worker is told when it starts: flags first, then the environment, then files of secrets."""

from __future__ import annotations

from pathlib import Path

import msgspec

from inference_worker.contract.settings import read


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Times in seconds."""

    site: str
    broker: str  # carries the jobs: Redis, Valkey or RabbitMQ
    store: str  # Redis or Valkey: all else; the same address where the broker is one of those
    state_dir: Path
    models: Path
    engine_python: Path
    name: str
    token: str = ""
    rotate_key: bool = False
    run_dir: Path | None = None
    log_level: str = "info"
    carrier: str = ""  # "batched" or "stock"; empty: stock for RabbitMQ, batched else
    drain_seconds: float = 30.0
    engine_memory_bytes: int = 0  # 0: nine tenths of what the machine or the container has
    engine_log_bytes: int = 16 * 2**20
    engine_start_seconds: float = 1800.0
    probe_seconds: float = 15.0
    hung_seconds: float = 60.0


def secret(name: str) -> str:
    """KASBAH_<NAME> of the environment, else the file of that name in KASBAH_SECRETS_DIR, else nothing.

    Raises SettingError, which repeats no value.
    """
    return read(name) or ""

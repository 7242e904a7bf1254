"""Reads every setting of the control plane once, before a process serves: a wrong one stops the start by its name.

What is not read here is read by `config.settings` itself, when Django loads it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from kasbah.audit.log import witnessing
from kasbah.audit.services import receipts
from kasbah.common import env, schema, sealed
from kasbah.gateway import classifying, runtime
from kasbah.identity.services import keys
from kasbah.serving import timings
from kasbah.serving.dispatch import carriers

FOLDERS = ("MODELS_DIR", "AUDIT_DIR", "IMPORT_DIR")


def check_settings() -> None:
    """Raises SettingError for the first setting that is not what it must be."""
    for read in READERS:
        read()


def trusted_proxies(text: str) -> str:
    """Addresses or networks, separated by commas, or * for any. Raises SettingInvalid."""
    for each in filter(None, (part.strip() for part in text.split(","))):
        try:
            _ = each == "*" or ipaddress.ip_network(each, strict=False)
        except ValueError:
            raise env.invalid("TRUSTED_PROXIES", "addresses or networks, separated by commas", each) from None
    return text


def demo_broker() -> str:
    """Where the demonstration's site has its broker. Raises SettingError, which does not repeat it."""
    return env.address("DEMO_BROKER_URL", settings.REDIS_URL, ("redis", "rediss", "amqp", "amqps", "unix"))


def demo_model() -> str:
    """The digest of the demonstration's model, or nothing. Raises SettingInvalid."""
    return env.matching("DEMO_MODEL", "", r"([0-9a-f]{64})?", "a digest, 64 hexadecimal digits")


def _folders() -> None:
    for name in FOLDERS:
        chosen = getattr(settings, name)
        if chosen and Path(chosen).exists() and not Path(chosen).is_dir():
            raise env.invalid(name, "a folder, and this is none", chosen)


READERS: tuple[Callable[[], object], ...] = (
    sealed.kek,
    keys.pepper,
    receipts.ring,
    schema.application_role,
    _folders,
    lambda: env.endpoint("BIND", "127.0.0.1:8080"),
    lambda: trusted_proxies(env.value("TRUSTED_PROXIES", "")),
    witnessing.configured,
    timings.timings,
    carriers.carrier_name,
    runtime.stream_hold,
    runtime.default_output,
    runtime.pool_size,
    runtime.default_output,
    classifying.own_detector,
    demo_broker,
    demo_model,
    lambda: env.switch("DEMO_NEW_KEY", ""),
)

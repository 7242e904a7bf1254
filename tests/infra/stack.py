"""What docker-compose.yml and the Dockerfiles must fulfil, as functions over the parsed files that name what is wrong.

They take what they check as arguments, so that a test can break a copy and see that it is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
Compose = dict[str, Any]

ONE_SHOT = {"migrate", "manage"}  # they end: nothing to watch
DOOR = "proxy"
# The program file of Caddy's image carries it, and does not start where it is dropped.
CAPABILITIES = {DOOR: ["NET_BIND_SERVICE"]}
# vLLM compiles kernels and loads them as programs.
PROGRAMS_IN_TMP = {"worker-main"}
SECRET_WORDS = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|PEPPER|KEK|_URL$")
# They hold neither user nor password.
HARMLESS = {"KC_DB_URL"}


def load() -> Compose:
    """docker-compose.yml with the defaults of its variables put in, as compose would."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    text = re.sub(r"\$\{PUBLIC_HOST(:\?[^}]*)?\}", "kasbah.test", text)
    text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)
    parsed: Compose = yaml.safe_load(text)
    return parsed


def image_files() -> dict[str, str]:
    """Dockerfiles by name, continued lines joined."""
    return {
        path.name: path.read_text(encoding="utf-8").replace("\\\n", " ")
        for path in sorted((ROOT / "infra/containers").glob("*.Dockerfile"))
    }


def networks_of(service: Mapping[str, Any]) -> set[str]:
    """Names, whichever of the two forms is used."""
    return set(service.get("networks", ()))


def secrets_of(service: Mapping[str, Any]) -> dict[str, str]:
    """Name of the file inside the container -> name of the secret."""
    return {
        (item if isinstance(item, str) else item["target"]): (item if isinstance(item, str) else item["source"])
        for item in service.get("secrets", ())
    }


def hardening(compose: Compose) -> Iterator[str]:
    """Every service has as few rights as it can have."""
    for name, service in compose["services"].items():
        wrong = {
            "is privileged": service.get("privileged"),
            "shares a namespace of the host": {"network_mode", "pid", "ipc", "userns_mode", "uts"} & service.keys(),
            "has devices of the host": service.get("devices"),
            "keeps capabilities": service.get("cap_drop") != ["ALL"],
            "adds capabilities": service.get("cap_add", []) != CAPABILITIES.get(name, []),
            "may gain privileges": service.get("security_opt") != ["no-new-privileges:true"],
            "has a writable file system": service.get("read_only") is not True,
            "runs as root": str(service.get("user", "root")).split(":")[0] in {"root", "0"},
            "publishes a port": name != DOOR and service.get("ports"),
            "has an image without a fixed version": not re.search(r":v?\d+\.\d+[\w.-]*$", service["image"]),
            "has no health check": name not in ONE_SHOT and not service.get("healthcheck", {}).get("test"),
            "has no bound for its log": "max-size" not in service.get("logging", {}).get("options", {}),
        }
        yield from (f"{name} {what}" for what, found in wrong.items() if found)
        yield from limits(name, service)
        yield from mounts(name, service)


def limits(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    """Memory, processors and processes are bounded."""
    found = service.get("deploy", {}).get("resources", {}).get("limits", {})
    yield from (f"{name} has no limit for {what}" for what in ("memory", "cpus", "pids") if what not in found)


def mounts(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    """Files of the repository are mounted read-only and exist; what is in memory holds no programs."""
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        if source.startswith((".", "/")):
            if mode != ["ro"]:
                yield f"{name} may write to {source}"
            if not (ROOT / source).exists():
                yield f"{name} mounts {source}, which is not in the repository"
        elif target.startswith("/run/secrets"):
            yield f"{name} mounts a volume over its secrets"
    for entry in service.get("tmpfs", ()):
        path, _, options = entry.partition(":")
        if "noexec" not in options and name not in PROGRAMS_IN_TMP:
            yield f"{name} may hold programs in {path}"
        if not {"nosuid", "nodev"} <= set(options.split(",")) or "size=" not in options:
            yield f"{name} has a folder in memory without size, nosuid or nodev: {path}"


def environment(compose: Compose) -> Iterator[str]:
    """No secret stands in an environment."""
    for name, service in compose["services"].items():
        for variable in service.get("environment", {}):
            if SECRET_WORDS.search(variable) and not variable.endswith("_FILE") and variable not in HARMLESS:
                yield f"{name} has {variable} in its environment; give it as a secret file"


def separation(compose: Compose) -> Iterator[str]:
    """Who can reach whom."""
    services, networks = compose["services"], compose["networks"]
    members = {net: {name for name, service in services.items() if net in networks_of(service)} for net in networks}
    for net, options in networks.items():
        if net != "edge" and not (options or {}).get("internal"):
            yield f"network {net} leads out of the machine"
    if members.get("edge") != {DOOR}:
        yield f"on the network edge must be the proxy alone, not {sorted(members.get('edge', ()))}"
    for name, service in services.items():
        if not networks_of(service):
            yield f"{name} is on the default network"
        yield from worker_separation(name, service, members)
    if networks_of(services["postgres"]) != {"control"}:
        yield "postgres is on more than the network control"
    for name in members["control"] & members["front"] - {"control-plane", "keycloak"}:
        yield f"{name} joins the proxy's network with the database's"


def worker_separation(name: str, service: Mapping[str, Any], members: Mapping[str, set[str]]) -> Iterator[str]:
    """A worker is on its site's network, and there is nobody but workers of the site and its broker."""
    kind, _, site = name.partition("-")
    if kind == "worker":
        home = f"site-{site}"
        if networks_of(service) != {home}:
            yield f"{name} must be on {home} alone, not {sorted(networks_of(service))}"
        strangers = {other for other in members.get(home, ()) if other not in {f"broker-{site}", name}}
        if strangers:
            yield f"{name} can reach {sorted(strangers)}"
        if set(secrets_of(service)) != {"broker_url", "enrol_token"}:
            yield f"{name} has secrets beyond its broker's address and its token: {sorted(secrets_of(service))}"
    if kind == "broker" and networks_of(service) != {f"site-{site}", f"site-{site}-uplink"}:
        yield f"{name} must join its site with the uplink, nothing else"


def secret_files(compose: Compose, made: set[str], read: set[str]) -> Iterator[str]:
    """Secrets: each is made by make_secrets, used, known to the program that gets it, and no wider spread than needed.

    `made` are the files of the folder, `read` the settings that our code reads, in lower case.
    """
    services = compose["services"]
    used = {secret for service in services.values() for secret in secrets_of(service).values()}
    declared = {name: Path(options["file"]).name for name, options in compose["secrets"].items()}
    yield from (f"secret {name} is declared and used by nobody" for name in declared.keys() - used)
    yield from (f"secret {name} is used and not declared" for name in used - declared.keys())
    yield from (f"secret {name} is made by nobody" for name, file in declared.items() if file not in made)
    for name, service in services.items():
        secrets = secrets_of(service)
        if service["image"].startswith(("kasbah/control-plane", "kasbah/worker")):
            # This one is not a setting: a person gives its path to the command that makes the site.
            unknown = secrets.keys() - read - {"site_main_control_broker_url"}
            yield from (f"{name} gets the secret {secret}, which the code does not read" for secret in sorted(unknown))
        if "owner_database_url" in secrets and name != "migrate":
            yield f"{name} gets the credentials of the tables' owner"
        if "tls_key" in secrets and name != DOOR:
            yield f"{name} gets the certificate's key"

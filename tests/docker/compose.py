"""compose.yaml read and judged without an engine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Service = Mapping[str, Any]
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-+?])([^}]*))?\}")
_TAGGED = re.compile(r"[^\s:@]+(:(?!latest$)[\w][\w.-]*|@sha256:[0-9a-f]{64})")
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN(?!S)|KEY|CONN")
_SECRET_BY_FILE = ("_FILE", "_CMD", "__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE")


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, operator, rest = found[1], found[2] or "", found[3] or ""
    value = variables.get(name, "")
    if operator.endswith("+"):
        return rest if value else ""
    if not value and operator.endswith("?"):
        raise KeyError(f"{name}: {rest}")
    return value or (rest if operator.endswith("-") else "")


def load(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """A compose file with its variables filled in as Compose does.

    Raises:
        KeyError: a variable is missing that the file requires.
    """

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        is_text = isinstance(value, str)
        return _VARIABLE.sub(lambda m: _value(m, variables), value) if is_text else value

    made: dict[str, Any] = filled(yaml.safe_load(path.read_text(encoding="utf-8")))
    return made


def _confinement(service: Service) -> Iterator[str]:
    user = str(service.get("user", "root"))
    if not re.fullmatch(r"[1-9]\d*:\d+", user):
        yield f"runs as {user}"
    if service.get("privileged") or service.get("cap_add") or service.get("devices"):
        yield "has privileges, capabilities or devices"
    if service.get("cap_drop") != ["ALL"]:
        yield "keeps capabilities"
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield "may gain privileges"
    if service.get("read_only") is not True:
        yield "may write into its image"
    for key in ("network_mode", "pid", "ipc"):
        if key in service:
            yield f"shares {key} with others"


def _life(service: Service) -> Iterator[str]:
    is_one_shot = service.get("restart") == "no"
    health = service.get("healthcheck", {})
    if not is_one_shot and (not health.get("test") or health.get("disable")):
        yield "has no health check"
    if not is_one_shot and service.get("restart") != "unless-stopped":
        yield "does not start again"
    if not _TAGGED.fullmatch(str(service.get("image"))):
        yield f"image {service.get('image')} has no version"
    if "stop_grace_period" not in service or not service.get("init"):
        yield "has no time or no init to stop"


def _reach(service: Service) -> Iterator[str]:
    for port in service.get("ports", []):
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port)):
            yield f"port {port} is not on loopback"
    for volume in service.get("volumes", []):
        source = str(volume["source"] if isinstance(volume, dict) else volume.partition(":")[0])
        if "docker.sock" in str(volume):
            yield "holds the engine's socket: that is root"
        if source.startswith(("/", ".", "~")) and not (
            isinstance(volume, dict) and volume.get("read_only")
        ):
            yield f"writes to {source} of the machine"


def _secrets(service: Service) -> Iterator[str]:
    for name, value in service.get("environment", {}).items():
        if _SECRET.search(name) and not name.endswith(_SECRET_BY_FILE):
            yield f"{name} holds a secret, not the name of a file"
        found = re.findall(r"/run/secrets/(\w+)", str(value))
        for secret in set(found) - set(service.get("secrets", [])):
            yield f"{name} names the secret {secret}, which the service does not get"


def complaints(services: Mapping[str, Service]) -> list[str]:
    """What is wrong with the services of a compose file; nothing if all is well."""
    rules = (_confinement, _life, _reach, _secrets)
    return [
        f"{name} {said}"
        for name, service in services.items()
        for rule in rules
        for said in rule(service)
    ]

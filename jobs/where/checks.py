"""What a value of the places file may be. Standard library only: DAGs import it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jobs.errors import JobError

Check = Callable[[Any, str], Any]
TextCheck = Callable[[Any, str], str]

_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._/:-]*(@sha256:[0-9a-f]{64})?")
_TAG = re.compile(r"(.*/)?[^/:]+:(?P<tag>[\w][\w.-]*)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KUBERNETES = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_USER = re.compile(r"[1-9][0-9]*:[0-9]+")
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(_|^)KEY(_|$)", re.IGNORECASE)


class PlacesError(JobError):
    """The places file, or the environment that it asks for, is not usable."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'image'?` if one is near, else the end of the sentence."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else "."


def _matches(pattern: re.Pattern[str], form: str) -> TextCheck:
    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise PlacesError(f"{where}: {value!r} is not {form}")
        return value

    return check


variable = _matches(_VARIABLE, "the name of an environment variable")
kubernetes_name = _matches(_KUBERNETES, "a name as Kubernetes has it (a-z, 0-9, - and .)")
label = _matches(_LABEL, "a label as Kubernetes has it")
python = _matches(re.compile(r"[A-Za-z0-9/][A-Za-z0-9._/-]*"), "a Python in the image")
user = _matches(_USER, "a user and a group by number, and not root: '10001:10001'")


def image(value: Any, where: str) -> str:
    """An image by a tag that is not `latest`, or by its digest: what ran can be named later."""
    name = _matches(_IMAGE, "an image: 'registry.example.org/tidemark-gpu:0.1.0'")(value, where)
    tagged = _TAG.fullmatch(name.partition("@")[0])
    if "@" not in name and (tagged is None or tagged["tag"] == "latest"):
        raise PlacesError(
            f"{where}: '{name}' may be another image tomorrow; give it a version or a digest: "
            f"'{name.removesuffix(':latest')}:0.1.0'"
        )
    return name


def network(value: Any, where: str) -> str:
    """`none`, `bridge` or a network that somebody made."""
    name = _matches(_NETWORK, "the name of a Docker network")(value, where)
    if name == "host":
        raise PlacesError(f"{where}: 'host' opens every port of this machine; use 'bridge'")
    return name


def number(lowest: float, *, whole: bool = False) -> Check:
    """A number of at least `lowest`; True is none."""

    def check(value: Any, where: str) -> float:
        is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if is_number and lowest <= value < 1e9:
            return float(value) if not whole else int(value)
        kind = "a whole number" if whole else "a number"
        raise PlacesError(f"{where}: {value!r} is not {kind} of {lowest:g} or more")

    return check


def one_of(*allowed: str) -> TextCheck:
    """One of these words."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise PlacesError(f"{where}: {value!r} is none of {', '.join(allowed)}")
        return value

    return check


def list_of(check: Check) -> Check:
    """A list whose members pass `check`; a tuple comes back."""

    def check_all(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise PlacesError(f"{where}: {value!r} is not a list")
        return tuple(check(member, where) for member in value)

    return check_all


def table_of(key: Check, member: Check) -> Check:
    """A table whose keys and values pass."""

    def check_all(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise PlacesError(f'{where}: {value!r} is not a table: {{ NAME = "value" }}')
        return {key(k, where): member(v, f"{where}.{k}") for k, v in value.items()}

    return check_all


def keys_of(checks: Mapping[str, Check], required: Iterable[str] = ()) -> Check:
    """A table with keys of its own: unknown ones and missing ones are errors."""

    def check_all(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise PlacesError(f"{where}: {value!r} is not a table")
        for key in value:
            if key not in checks:
                raise PlacesError(
                    f"{where}: there is no key '{key}'{nearest(key, checks)} "
                    f"There are: {', '.join(checks)}"
                )
        for key in required:
            if key not in value:
                raise PlacesError(f"{where}: the key '{key}' is missing")
        return {key: checks[key](member, f"{where}.{key}") for key, member in value.items()}

    return check_all


def plain_variable(value: Any, where: str) -> str:
    """A variable whose value may stand in the spec of a pod, which many people can read."""
    name = variable(value, where)
    if _SECRET.search(name):
        raise PlacesError(
            f"{where}: {name} looks like a secret, and the spec of a pod is no place for one; "
            f'name where the cluster keeps it: secrets = {{ {name} = "secret-name/key" }}'
        )
    return name


def secret_key(value: Any, where: str) -> tuple[str, str]:
    """`name/key` of a Kubernetes secret."""
    name, slash, key = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not slash or not _KUBERNETES.fullmatch(name) or not re.fullmatch(r"[\w.-]+", key):
        raise PlacesError(
            f"{where}: {value!r} is not where a secret lies: 'secret-name/key'. "
            "The value itself never stands in this file"
        )
    return name, key


def claim(value: Any, where: str) -> tuple[str, bool]:
    """A volume claim, and whether it is read only: `models:ro`."""
    name, colon, mode = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not _KUBERNETES.fullmatch(name) or (colon and mode != "ro"):
        raise PlacesError(f"{where}: {value!r} is not a volume claim: 'models' or 'models:ro'")
    return name, bool(colon)

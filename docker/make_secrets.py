"""Make the secrets of docker/compose.yaml, once, as files that neither git nor an image holds.

Usage: make_secrets.py [FOLDER]; by default TIDEMARK_SECRETS, or ~/.config/tidemark/secrets.
A file that is there is kept: run it again after an update.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from pathlib import Path


def made(folder: Path) -> list[str]:
    """Make what is missing and name it.

    The folder is for its owner alone; the files in it are readable, because the users of the
    containers, who get single files and not the folder, have other numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    new = [
        name
        for name, value in (
            ("postgres_password", secrets.token_urlsafe(32)),
            ("fernet_key", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()),
            ("api_secret_key", secrets.token_urlsafe(48)),
            ("jwt_secret", secrets.token_urlsafe(48)),
            ("admin_passwords", json.dumps({"admin": secrets.token_urlsafe(18)})),
        )
        if _write_new(folder / name, value)
    ]
    password = (folder / "postgres_password").read_text(encoding="utf-8")
    url = f"postgresql+psycopg2://airflow:{password}@postgres:5432/airflow"
    return [*new, "database_url"] if _write_new(folder / "database_url", url) else new


def _write_new(path: Path, value: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(value)
    path.chmod(0o444)  # whatever the umask says
    return True


if __name__ == "__main__":
    default = os.environ.get("TIDEMARK_SECRETS") or "~/.config/tidemark/secrets"
    chosen = Path(sys.argv[1] if len(sys.argv) > 1 else default).expanduser().absolute()
    new = made(chosen)
    sys.stdout.write(f"made: {', '.join(new) or 'nothing, all are there'}\n")
    sys.stdout.write(f"export TIDEMARK_SECRETS={chosen}\n")

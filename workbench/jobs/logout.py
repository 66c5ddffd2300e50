"""Whether this system lets a job live on after its user logs out."""

from __future__ import annotations

import configparser
import os
import pwd
from pathlib import Path

_FOLDERS = ("usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd")


def logout_warning(root: Path = Path("/"), user: str | None = None) -> str:
    """A sentence for the user if systemd ends jobs at logout, empty if they live on. `root` is for tests.

    systemd-logind kills what a session leaves behind if KillUserProcesses is on, except for users who linger
    (logind.conf(5)); off is the default.
    """
    if not _kills(root):
        return ""
    try:
        name = user or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""
    if name == "root" or (root / "var/lib/systemd/linger" / name).exists():  # root is in KillExcludeUsers
        return ""
    return (
        "This system ends your processes when you log out, jobs too: run `loginctl enable-linger` once, and start "
        "quantdeck with `systemd-run --user --scope quantdeck`; a job that was ended can be resumed."
    )


def _kills(root: Path) -> bool:
    """The last KillUserProcesses of logind's main file and its fragments, in the order in which systemd reads them."""
    main = next((p for f in reversed(_FOLDERS) if (p := root / f / "logind.conf").is_file()), None)
    fragments = {p.name: p for f in _FOLDERS for p in sorted((root / f / "logind.conf.d").glob("*.conf"))}
    kills = False
    for path in [*([main] if main else []), *(fragments[name] for name in sorted(fragments))]:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            parser.read_string(path.read_text("utf-8", "replace"))
        except (OSError, configparser.Error):
            continue
        value = parser.get("Login", "KillUserProcesses", fallback="").strip().lower()
        if value:
            kills = value in ("1", "yes", "y", "true", "t", "on")
    return kills

"""Names of repositories and of their files: what a user types, and what of theirs may become a file here."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

from ..errors import ValidationFailed
from ..model.wording import shown

LONGEST_NAME = 230
"""Bytes of a file's name that leave room for what a partial file's name adds; file systems take 255."""

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://(?:models/)?", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?P<page>resolve|blob|raw|tree)/(?P<revision>[^/]+)(?:/(?P<file>.*))?")
_OTHER_PAGES = frozenset({"discussions", "commit", "commits", "settings", "edit", "blame"})
_NO_OWNERS = frozenset({"datasets", "spaces", "models", "docs", "collections", "papers", "api", "blog"})
_FILE_ENDINGS = (".gguf", ".safetensors")
_LONGEST_REFERENCE = 1024
_LEVEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DEFAULT = "latest"
"""What other programs call the repository without a level."""


@dataclass(frozen=True)
class Reference:
    """A repository on the Hub, or one file in it, by its path or by its level.

    `revision` is a branch, tag or commit; "" is the main branch.
    """

    repository: str
    file: str = ""
    revision: str = ""
    level: str = ""

    def __str__(self) -> str:
        if self.level:
            return f"{self.repository}:{self.level}"
        return f"{self.repository}/{self.file}" if self.file else self.repository


def parse_reference(text: str) -> Reference | None:
    """OWNER/NAME, OWNER/NAME/FILE, OWNER/NAME:LEVEL or the address of a page on the Hub; None for anything else.

    Two parts of which the second is named like a model's file are a path: folder/model.gguf.
    """
    text = text.strip()
    if len(text) > _LONGEST_REFERENCE:
        return None
    address = _ADDRESS.match(text)
    rest = re.split(r"[?#]" if address else r"\?", text[address.end() :] if address else text)[0].rstrip("/")
    owner, _, rest = rest.partition("/")
    name, _, file = rest.partition("/")
    name, colon, level = name.partition(":")
    if colon and (file or not _LEVEL.fullmatch(level)):
        return None
    repository, revision = f"{owner}/{name}", ""
    if not is_repository(repository) or (address and owner in _NO_OWNERS):
        return None
    if address:
        file, revision = _in_address(file)
    elif not file and not colon and name.lower().endswith(_FILE_ENDINGS):
        return None
    if file and not _is_plain(file):
        return None
    return Reference(repository, file, revision, "" if level.lower() == _DEFAULT else level)


def _in_address(rest: str) -> tuple[str, str]:
    """File and revision of what follows the repository in an address; a folder's page is the repository's."""
    marked = _IN_ADDRESS.fullmatch(rest)
    if marked:
        file = "" if marked["page"] == "tree" else unquote(marked["file"] or "")
        return file, unquote(marked["revision"])
    return ("" if rest.partition("/")[0] in _OTHER_PAGES else unquote(rest)), ""


def _is_plain(path: str) -> bool:
    """Without detours and control characters."""
    return path.isprintable() and not any(part in ("", ".", "..") for part in path.split("/"))


def is_repository(name: str) -> bool:
    """True for OWNER/NAME as the Hub allows them."""
    return bool(_REPOSITORY.fullmatch(name)) and ".." not in name and "--" not in name


def local_name(path: str) -> str:
    """The name that a file of a repository gets here: the last part of its path.

    ValidationFailed for a path that could reach another place, hide the file, steer a terminal, or be no name at all.
    """
    parts = path.split("/")
    name = parts[-1]
    if not name or any(part in ("", ".", "..") for part in parts) or "\\" in path:
        raise ValidationFailed(f"The repository holds a file named {shown(path)}, which is no proper path; leave it.")
    if any(unicodedata.category(letter).startswith(("C", "Z")) and letter != " " for letter in path):
        raise ValidationFailed(f"The name {shown(path)} holds invisible characters; the file is not downloaded.")
    if name.startswith((".", "-")) or name.strip() != name:
        raise ValidationFailed(f"The name {shown(path)} begins or ends in a way that hides it or misleads; leave it.")
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise ValidationFailed(f"The name {shown(path)} is too long for a file here ({LONGEST_NAME} bytes at most).")
    return name

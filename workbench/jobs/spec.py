"""What a job was asked, fully resolved, as TOML that a person can read."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadArgument, ResumeFailed
from ..files import write_atomically
from ..shards import SHARD_NAME, shard_path, shard_paths

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

if TYPE_CHECKING:
    from ..recipe import Request

VERSION = 1


@dataclass(frozen=True)
class JobSpec:
    """One job. Paths are absolute. `request` is a `recipe.Request` as plain values, for the record.

    `output` is the file that the result is opened by, the first one if the result is split into files of at most
    `max_file_bytes` (0: it is not split).

    `workers` and `nice` are what the job starts with. `library` is where the result is registered, empty for nowhere.
    `imatrix` is the importance matrix's file, empty for none. Sizes are in bytes.
    """

    source: str
    output: str
    level: str
    workers: int
    nice: int = 0
    overwrite: bool = False
    verify: bool = True
    library: str = ""
    imatrix: str = ""
    created: str = ""
    architecture: str = ""
    source_format: str = ""
    n_weights: int = 0
    source_bytes: int = 0
    output_bytes: int = 0
    notes: tuple[str, ...] = ()
    max_file_bytes: int = 0
    request: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files of the result, `output` being the first."""
        return shard_paths(Path(self.output))

    @property
    def partials(self) -> tuple[Path, ...]:
        """The files that are written until the job is done, beside those of the result."""
        output = Path(self.output)
        if match := SHARD_NAME.fullmatch(output.name):
            # llama.cpp opens several files only by names of this form.
            stem, number, count = f".{match['stem']}.partial", int(match["number"]), int(match["count"])
            return shard_paths(shard_path(output.parent, stem, number, count))
        return (output.with_name(f".{output.name}.partial"),)

    def write(self, path: Path) -> None:
        """Write the spec as TOML; BadArgument for names that TOML cannot hold."""
        values = asdict(self)
        request = {k: v for k, v in values.pop("request").items() if v is not None}
        lines = [
            "# What this job was asked, fully resolved. Written once by Quantdeck, never changed.",
            f"version = {VERSION}",
        ]
        lines += [f"{name} = {_toml(value)}" for name, value in values.items()]
        lines += ["", "[request]"] + [f"{name} = {_toml(value)}" for name, value in request.items()]
        try:
            content = ("\n".join(lines) + "\n").encode()
        except UnicodeEncodeError as error:
            raise BadArgument("A file name of the job is not valid UTF-8; rename the file.") from error
        write_atomically(path, content)

    @classmethod
    def read(cls, path: Path) -> JobSpec:
        """Read a spec; ResumeFailed if it is missing or damaged. Unknown keys of later versions are ignored."""
        try:
            values = tomllib.loads(path.read_text("utf-8"))
            values["notes"] = tuple(values.get("notes", ()))
            spec = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
            if not all(isinstance(getattr(spec, n), str) for n in ("source", "output", "level", "library", "imatrix")):
                raise TypeError("a path is not a string")
            if not all(isinstance(n, int) for n in (spec.workers, spec.nice, spec.max_file_bytes)):
                raise TypeError("a number is not whole")
        except (OSError, ValueError, TypeError) as error:
            raise ResumeFailed(f"The job's {path} is missing or damaged; submit the job again.") from error
        return spec


def request_values(request: Request) -> dict[str, Any]:
    """A request as plain values for the record."""
    return asdict(request)


def _toml(value: Any) -> str:
    """A TOML value; JSON's form of strings, numbers and booleans is TOML's too, but for DEL."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")

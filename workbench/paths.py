"""Where everything of ours lives: the one place that knows folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class Paths:
    """Our folders. They are made when something is first written into them, never before."""

    config: Path
    data: Path
    cache: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Paths:
        """`QUANTDECK_HOME` holds everything if it is set; otherwise each system's own folders."""
        if home := environ.get("QUANTDECK_HOME"):
            root = Path(os.path.expanduser(home)).absolute()  # noqa: PTH111 - pathlib's raises for a user that is not there
            return cls(config=root, data=root, cache=root / "cache")
        dirs = platformdirs.PlatformDirs("quantdeck", appauthor=False)
        return cls(config=dirs.user_config_path, data=dirs.user_data_path, cache=dirs.user_cache_path)

    @property
    def profile(self) -> Path:
        """The TOML profile."""
        return self.config / "profile.toml"

    @property
    def themes(self) -> Path:
        """The user's own themes."""
        return self.config / "themes"

    @property
    def jobs(self) -> Path:
        """The job store: one folder a job."""
        return self.data / "jobs"

    @property
    def library(self) -> Path:
        """The register of what was made: one file a model, named by its hash."""
        return self.data / "library"

    @property
    def models(self) -> Path:
        """Where quantized models go unless the user says otherwise."""
        return self.data / "models"

    @property
    def imatrices(self) -> Path:
        """Importance matrices that were made here."""
        return self.data / "imatrices"

    @property
    def logs(self) -> Path:
        """What llama.cpp and our children say."""
        return self.cache / "logs"

"""`quantdeck completion`: a completion script for the user's shell."""

from __future__ import annotations

import argparse

from ..cli import build_parser


def run(arguments: argparse.Namespace) -> int:
    """Print the script, made by shtab from the parser itself, so that it never falls behind."""
    import shtab

    print(shtab.complete(build_parser(), shell=arguments.shell))
    return 0

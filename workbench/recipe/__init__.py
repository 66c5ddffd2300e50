"""Which type each tensor gets."""

from .levels import ALIASES, LEVELS, Level, find_level
from .make import make_recipe
from .recipe import ImatrixFacts, Recipe, Request, TensorChoice

__all__ = [
    "ALIASES",
    "LEVELS",
    "ImatrixFacts",
    "Level",
    "Recipe",
    "Request",
    "TensorChoice",
    "find_level",
    "make_recipe",
]

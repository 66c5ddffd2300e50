"""From a request to a recipe."""

from __future__ import annotations

from ..model import Model
from .recipe import ImatrixFacts, Recipe, Request


def make_recipe(
    model: Model, request: Request, imatrix: ImatrixFacts | None = None, *, preview: bool = False
) -> Recipe:
    """The same types in the same order as llama.cpp's quantizer gives, and the output's metadata.

    With `preview` a recipe is made that could not be carried out as it is: without the importance matrix that it
    needs, or from weights that are already quantized. For estimates of size only.

    Raises:
        BadArgument: an unknown level or type, an expression that does not compile or fits no tensor, a level that
            needs an importance matrix without one, weights already quantized (unless `allow_requantize`).
        ValidationFailed: metadata that the choice depends on is missing or damaged.
    """
    raise NotImplementedError

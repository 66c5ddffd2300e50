"""The mixes as data: which role of a tensor gets which type at which level, and when.

The rules are those of llama.cpp's quantizer: a level's rules for a role are tried in order and the first
that applies gives the type; where none applies, the level's own type stays. Roles come from the tensors' names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from .traits import OUTPUT, Traits


class Role(Enum):
    """What a tensor is for; the value is how people call it."""

    EMBEDDING = "token embeddings"
    OUTPUT = "output"
    VALUES = "attention values"
    KEYS = "attention keys"
    QUERIES = "attention queries"
    ATTENTION_OUTPUT = "attention output"
    DOWN = "feed-forward down"
    GATE = "feed-forward gate"
    UP = "feed-forward up"
    OTHER = "others"


EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

_ROLE_BY_PART = (
    ("attn_qkv.weight", Role.VALUES),
    ("attn_kv_b.weight", Role.VALUES),
    ("attn_v.weight", Role.VALUES),
    ("attn_k.weight", Role.KEYS),
    ("attn_q.weight", Role.QUERIES),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.UP),
    ("ffn_gate", Role.GATE),
    ("ffn_down", Role.DOWN),
)


def role_of(name: str) -> Role:
    """The role of the tensor called `name`. Fused and latent projections that hold values count as values."""
    if name == OUTPUT:
        return Role.OUTPUT
    if name in EMBEDDINGS:
        return Role.EMBEDDING
    return next((role for part, role in _ROLE_BY_PART if part in name), Role.OTHER)


@dataclass(frozen=True)
class Place:
    """Where one tensor stands: number `index` of `total` in its role, in which model, with an imatrix or without."""

    index: int
    total: int
    traits: Traits
    imatrix: bool


@dataclass(frozen=True)
class When:
    """A condition on the place, and how to say it."""

    test: Callable[[Place], bool]
    words: str = ""

    def __and__(self, other: When) -> When:
        return When(lambda p: self.test(p) and other.test(p), _joined(self.words, other.words))

    def __or__(self, other: When) -> When:
        return When(lambda p: self.test(p) or other.test(p), f"{self.words} or {other.words}")


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)


@dataclass(frozen=True)
class Rule:
    """Give `type` when the place fits; an overruling rule may hold only where the type so far is one `of` some."""

    type: str
    when: When
    of: frozenset[str] = frozenset()


def _spread(i: int, n: int) -> bool:
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


ALWAYS = When(lambda p: True)
FIRST_SIXTEENTH = When(lambda p: p.index < p.total // 16, "in the first sixteenth of the layers")
FIRST_EIGHTH = When(lambda p: p.index < p.total // 8, "in the first eighth of the layers")
MIDDLE = When(lambda p: p.total // 8 <= p.index < 7 * p.total // 8, "in the middle layers")
SPREAD = When(
    lambda p: _spread(p.index, p.total), "in the first and the last eighth of the layers and every third between"
)
FIRST_TWO = When(lambda p: p.index < 2, "in the first two layers")
FIRST_FOUR = When(lambda p: p.index < 4, "in the first four layers")
FEW_KV_HEADS = When(lambda p: p.traits.heads_per_kv >= 4, "as four or more query heads share them")
FOUR_EXPERTS = When(lambda p: p.traits.n_experts >= 4, "as the model has four or more experts")
EIGHT_EXPERTS = When(lambda p: p.traits.n_experts == 8, "as the model has eight experts")
OTHER_EXPERTS = When(lambda p: p.traits.n_experts != 8)
SHARES_VALUES = When(lambda p: p.traits.shares_values, "as they are few in a model of this shape")
FALCON = When(lambda p: p.traits.falcon, "as the model is a Falcon")
NOT_FALCON = When(lambda p: not p.traits.falcon)
NO_IMATRIX = When(lambda p: not p.imatrix, "as there is no importance matrix")
IMATRIX = When(lambda p: p.imatrix, "as there is an importance matrix")

VERY_LOW = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
"""Levels with rules so much their own that the overruling ones do not hold for them."""

Rules = tuple[Rule, ...]

_BEST_OF_1 = (Rule("Q4_K", FEW_KV_HEADS | FOUR_EXPERTS), Rule("Q2_K", ALWAYS))
_BEST_OF_2 = (Rule("Q4_K", FEW_KV_HEADS | FOUR_EXPERTS), Rule("IQ3_S", ALWAYS))
_SHARED_4 = (Rule("Q4_K", FEW_KV_HEADS),)
_SHARED_5 = (Rule("Q5_K", FEW_KV_HEADS),)
_SPREAD_6 = (Rule("Q6_K", SPREAD),)
_EARLY_5 = (Rule("Q5_K", FIRST_EIGHTH & NO_IMATRIX),)
_EIGHT_4 = (Rule("Q4_K", EIGHT_EXPERTS),)
_EIGHT_5 = (Rule("Q5_K", NOT_FALCON & EIGHT_EXPERTS),)

_VALUES: Mapping[str, Rules] = {
    "IQ1_S": _BEST_OF_1,
    "IQ1_M": _BEST_OF_1,
    "IQ2_XXS": _BEST_OF_1,
    "IQ2_XS": _BEST_OF_1,
    "IQ2_S": _BEST_OF_2,
    "IQ2_M": _BEST_OF_2,
    "Q2_K": (Rule("Q4_K", FEW_KV_HEADS), Rule("Q3_K", ALWAYS)),
    "Q2_K_S": _SHARED_4,
    "IQ3_XXS": (Rule("Q4_K", FEW_KV_HEADS), Rule("IQ3_S", NO_IMATRIX)),
    "IQ3_XS": _SHARED_4,
    "IQ3_S": _SHARED_4,
    "IQ3_M": (Rule("Q4_K", ALWAYS),),
    "Q3_K_M": (Rule("Q5_K", FIRST_TWO), Rule("Q4_K", ALWAYS)),
    "Q3_K_L": (Rule("Q5_K", ALWAYS),),
    "IQ4_NL": _SHARED_5,
    "IQ4_XS": _SHARED_5,
    "Q4_K_S": (Rule("Q5_K", FIRST_FOUR),),
    "Q4_K_M": _SPREAD_6,
    "Q5_K_M": _SPREAD_6,
}

_KEYS: Mapping[str, Rules] = dict.fromkeys(VERY_LOW, _EIGHT_4) | {
    "IQ3_XXS": (Rule("IQ2_S", ALWAYS),),
    "IQ3_XS": (Rule("IQ3_XXS", ALWAYS),),
}

_QUERIES: Mapping[str, Rules] = {
    "IQ3_XXS": (Rule("IQ2_S", ALWAYS),),
    "IQ3_XS": (Rule("IQ3_XXS", ALWAYS),),
}

_ATTENTION_OUTPUT: Mapping[str, Rules] = {
    "IQ1_S": (Rule("Q5_K", EIGHT_EXPERTS), Rule("IQ2_XXS", ALWAYS)),
    "IQ1_M": (Rule("Q5_K", EIGHT_EXPERTS), Rule("IQ2_XXS", ALWAYS)),
    "IQ2_XXS": (Rule("Q5_K", EIGHT_EXPERTS),),
    "IQ2_XS": (Rule("Q5_K", EIGHT_EXPERTS),),
    "IQ2_S": (Rule("Q5_K", EIGHT_EXPERTS), Rule("IQ3_S", ALWAYS)),
    "IQ2_M": (Rule("Q5_K", EIGHT_EXPERTS), Rule("IQ3_S", ALWAYS)),
    "Q2_K": (*_EIGHT_5, Rule("Q3_K", NOT_FALCON)),
    "IQ3_XXS": (*_EIGHT_5, Rule("IQ3_S", NOT_FALCON)),
    "IQ3_XS": _EIGHT_5,
    "IQ3_S": _EIGHT_5,
    "IQ3_M": (*_EIGHT_5, Rule("Q4_K", NOT_FALCON)),
    "Q3_K_S": _EIGHT_5,
    "Q3_K_M": (*_EIGHT_5, Rule("Q4_K", NOT_FALCON)),
    "Q3_K_L": (Rule("Q4_K", FALCON), Rule("Q5_K", OTHER_EXPERTS)),
    "IQ4_NL": _EIGHT_5,
    "IQ4_XS": _EIGHT_5,
    "Q4_K_S": _EIGHT_5,
    "Q4_K_M": _EIGHT_5,
}

_DOWN: Mapping[str, Rules] = {
    "IQ1_S": (Rule("Q2_K", FIRST_EIGHTH),),
    "IQ1_M": (Rule("Q2_K", FIRST_EIGHTH),),
    "IQ2_XXS": (Rule("Q2_K", FIRST_EIGHTH),),
    "IQ2_XS": (Rule("Q2_K", FIRST_EIGHTH),),
    "IQ2_S": (Rule("IQ3_S", FIRST_EIGHTH),),
    "IQ2_M": (Rule("IQ3_S", FIRST_EIGHTH),),
    "Q2_K": (Rule("Q3_K", ALWAYS),),
    "Q2_K_S": (Rule("Q4_K", FIRST_EIGHTH),),
    "IQ3_XXS": (Rule("Q4_K", FIRST_EIGHTH & NO_IMATRIX), Rule("Q3_K", NO_IMATRIX)),
    "IQ3_M": (Rule("Q4_K", FIRST_EIGHTH | (EIGHT_EXPERTS & SPREAD)),),
    "Q3_K_M": (Rule("Q5_K", FIRST_SIXTEENTH), Rule("Q4_K", NOT_FALCON), Rule("Q4_K", SPREAD)),
    "Q3_K_L": (Rule("Q4_K", FALCON), Rule("Q5_K", ALWAYS)),
    "IQ4_NL": _EARLY_5,
    "IQ4_XS": _EARLY_5,
    "Q4_0": (Rule("Q4_1", IMATRIX & FIRST_EIGHTH),),
    "Q4_K_S": (Rule("Q5_K", NOT_FALCON & FIRST_EIGHTH),),
    "Q4_K_M": (
        Rule("Q6_K", FALCON & FIRST_SIXTEENTH),
        Rule("Q5_K", FALCON & SPREAD),
        Rule("Q6_K", NOT_FALCON & SPREAD),
    ),
    "Q5_0": (Rule("Q5_1", IMATRIX & FIRST_EIGHTH),),
    "Q5_K_M": _SPREAD_6,
}

_GATE_AND_UP: Mapping[str, Rules] = {"IQ3_XS": (Rule("IQ3_XXS", MIDDLE),)}

_EMBEDDING: Mapping[str, Rules] = {
    "IQ1_S": (Rule("Q2_K", ALWAYS),),
    "IQ1_M": (Rule("Q2_K", ALWAYS),),
    "IQ2_XXS": (Rule("Q2_K", ALWAYS),),
    "IQ2_XS": (Rule("Q2_K", ALWAYS),),
    "IQ2_S": (Rule("IQ3_S", ALWAYS),),
    "IQ2_M": (Rule("IQ3_S", ALWAYS),),
    "IQ3_XXS": (Rule("IQ3_S", ALWAYS),),
    "TQ1_0": (Rule("Q4_K", ALWAYS),),
    "TQ2_0": (Rule("Q4_K", ALWAYS),),
    "Q2_0": (Rule("Q4_K", ALWAYS),),
}

MIXES: Mapping[Role, Mapping[str, Rules]] = {
    Role.EMBEDDING: _EMBEDDING,
    Role.VALUES: _VALUES,
    Role.KEYS: _KEYS,
    Role.QUERIES: _QUERIES,
    Role.ATTENTION_OUTPUT: _ATTENTION_OUTPUT,
    Role.DOWN: _DOWN,
    Role.GATE: _GATE_AND_UP,
    Role.UP: _GATE_AND_UP,
}

OVERRULING: Mapping[Role, Rules] = {
    Role.VALUES: (Rule("Q5_K", SHARES_VALUES, of=frozenset({"Q3_K", "Q4_K"})), Rule("Q8_0", EIGHT_EXPERTS)),
    Role.KEYS: (Rule("Q8_0", EIGHT_EXPERTS),),
}
"""Rules for all levels but the very low ones, tried after the level's own; the last that applies gives the type."""


def mixed_type(level: str, default: str, role: Role, place: Place) -> tuple[str, str]:
    """The type that the mix `level` gives a tensor with this role and place, and why in words ("" for `default`)."""
    chosen, words = default, ""
    for rule in MIXES.get(role, {}).get(level, ()):
        if rule.when.test(place):
            chosen, words = rule.type, rule.when.words
            break
    if level not in VERY_LOW:
        for rule in OVERRULING.get(role, ()):
            if rule.when.test(place) and (not rule.of or chosen in rule.of):
                chosen, words = rule.type, rule.when.words
    return chosen, "" if chosen == default else _joined(f"{role.value} in the mix {level}", words)


_OUTPUT_IN_Q5_K = VERY_LOW | {"IQ3_XXS"}


def type_of_output(level: str, default: str, traits: Traits) -> tuple[str, str]:
    """The type of the output, or of token embeddings that serve as output too, and why ("" for `default`)."""
    if level == "MXFP4_MOE" or traits.falcon:
        chosen = "Q8_0"
    elif level in _OUTPUT_IN_Q5_K:
        chosen = "Q5_K"
    else:
        chosen = "Q8_0" if default == "Q8_0" else "Q6_K"
    return chosen, "" if chosen == default else "the output decides every token, so it keeps more bits"


FALLBACKS: Mapping[str, str] = {
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q2_0": "Q4_0",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""What takes the place of a type whose blocks do not divide the row; where that does not divide it either, F16."""

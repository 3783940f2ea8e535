"""Names that people can say for runs that nobody named."""

from __future__ import annotations

import inspect
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from .errors import ConfigurationError

_FIRST = [
    "amber",
    "azure",
    "brisk",
    "calm",
    "clear",
    "cobalt",
    "copper",
    "crisp",
    "deep",
    "early",
    "eager",
    "fair",
    "fleet",
    "fresh",
    "gentle",
    "golden",
    "grand",
    "green",
    "hazel",
    "high",
    "ivory",
    "jade",
    "keen",
    "late",
    "light",
    "lively",
    "lucid",
    "mellow",
    "merry",
    "mild",
    "noble",
    "olive",
    "pale",
    "plain",
    "proud",
    "pure",
    "quick",
    "quiet",
    "rapid",
    "rosy",
    "ruby",
    "sandy",
    "sharp",
    "silent",
    "silver",
    "sleek",
    "slow",
    "smooth",
    "snowy",
    "solid",
    "steady",
    "still",
    "strong",
    "sunny",
    "swift",
    "tall",
    "tidy",
    "vast",
    "vivid",
    "warm",
    "wide",
    "wild",
    "young",
]
_SECOND = [
    "alder",
    "beck",
    "brook",
    "canal",
    "cascade",
    "cedar",
    "creek",
    "current",
    "delta",
    "dipper",
    "eddy",
    "elder",
    "falls",
    "fen",
    "ferry",
    "ford",
    "fountain",
    "gorge",
    "grebe",
    "gully",
    "harbour",
    "heron",
    "inlet",
    "islet",
    "kingfisher",
    "lagoon",
    "lake",
    "lock",
    "marsh",
    "mill",
    "moor",
    "mouth",
    "newt",
    "oxbow",
    "otter",
    "pike",
    "pond",
    "pool",
    "quay",
    "rapids",
    "reed",
    "ripple",
    "river",
    "salmon",
    "shore",
    "sluice",
    "source",
    "spring",
    "stone",
    "stream",
    "strand",
    "swan",
    "tarn",
    "tide",
    "trout",
    "valley",
    "wave",
    "weir",
    "wheel",
    "willow",
]


def random_name() -> str:
    """Such as ``swift-otter-3f2a``."""
    chosen = random.SystemRandom()
    return f"{chosen.choice(_FIRST)}-{chosen.choice(_SECOND)}-{secrets.token_hex(2)}"


def run_name(
    what: str, template: str | Callable[..., str] | None, parameters: Mapping[str, Any]
) -> str:
    """Name of a run, from a template such as ``"clean-{shard}"`` or a function.

    The function takes no argument, or one called ``parameters``.

    Raises
    ------
    ConfigurationError
        The template names no parameter, or the function gives no text.
    """
    if template is None:
        return random_name()
    if callable(template):
        wants = "parameters" in inspect.signature(template).parameters
        made: Any = template(parameters=dict(parameters)) if wants else template()
    else:
        try:
            made = template.format(**parameters)
        except (KeyError, IndexError, AttributeError) as error:
            raise ConfigurationError(
                f"{what}: the run name {template!r} names no parameter ({error}); "
                f"there are: {', '.join(parameters) or 'none'}"
            ) from None
    if not isinstance(made, str) or not made:
        raise ConfigurationError(f"{what}: the run name must be a text, got {made!r}")
    return made

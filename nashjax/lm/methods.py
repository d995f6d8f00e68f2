"""The methods by name, with settings for language models."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from nashjax._validation import check_choice, check_integer, invalid
from nashjax.stochastic.methods import (
    AveragedNashMP,
    NashMDPolicyGradient,
    OnlineDPO,
    OnlineIPO,
    PolicyMethod,
    SelfPlayPolicyGradient,
    StochasticNashMP,
)

METHODS: dict[str, Callable[..., PolicyMethod]] = {
    "target": AveragedNashMP.target,
    "two_average": AveragedNashMP.two_average,
    "proximal_point": AveragedNashMP.proximal_point,
    "two_loop": StochasticNashMP,
    "nash_md": NashMDPolicyGradient,
    "self_play": SelfPlayPolicyGradient,
    "online_ipo": OnlineIPO,
    "online_dpo": OnlineDPO,
}
"""The four forms of spec 5, then what to compare with."""

DEFAULT = "proximal_point"
"""The best of the four in `benchmarks/language_model.py`."""

_TUNED: dict[str, dict[str, Any]] = {
    "target": {"rate": 0.2, "exploration": 0.25},
    "two_average": {"fast": 0.5, "slow": 0.1, "exploration": 0.25},
    "proximal_point": {"rate": 0.2, "exploration": 0.25},
    "two_loop": {"inner_steps": 20, "exploration": 0.25},
}
"""The best settings of the four in that study."""


def make_method(
    name: str = DEFAULT,
    *,
    prompts_per_step: int = 8,
    samples_per_prompt: int = 4,
    all_pairs: bool = True,
    learning_rate: float = 0.0015,
    max_gradient_norm: float | None = 1.0,
    **options: Any,
) -> PolicyMethod:
    """A method by its name.

    Args:
      name: one of `METHODS`.
      prompts_per_step: in every step.
      samples_per_prompt: answers of the policy to each prompt, and as many of the opponent, >= 2.
      all_pairs: whether to compare each of these with each of those, or each with one.
      learning_rate: of Adam. The best in the study, of a tiny model, are 0.0015 and 0.004, for policy gradients
        without averages 0.0005.
      max_gradient_norm: longer gradients are shortened to this; None leaves them.
      options: of the method, see its class and, for the averaged forms, its constructors.

    Raises:
      ValueError: a setting is not valid.
    """
    check_choice("method", name, tuple(METHODS))
    allowed = _options(name)
    unknown = set(options) - allowed
    if unknown:
        raise invalid("options", f"among those of {name}, {', '.join(sorted(allowed))}", repr(min(unknown)))
    check_integer("prompts_per_step", prompts_per_step, 1)
    check_integer("samples_per_prompt", samples_per_prompt, 2)
    return METHODS[name](
        batch_size=prompts_per_step * samples_per_prompt ** (2 if all_pairs else 1),
        samples_per_context=samples_per_prompt,
        all_pairs=all_pairs,
        learning_rate=learning_rate,
        max_gradient_norm=max_gradient_norm,
        **(_TUNED.get(name, {}) | options),
    )


def _options(name: str) -> set[str]:
    """What `make_method` can be told of a method."""
    make = METHODS[name]
    kind: Any = getattr(make, "__self__", make)  # the class that a constructor belongs to
    named = {field.name for field in dataclasses.fields(kind)} | set(inspect.signature(make).parameters)
    if make is not kind:  # which sets these two by names of its own
        named -= {"opponent_rate", "center_rate", "options"}
    return named - {"batch_size", "samples_per_context"} | {"prompts_per_step", "samples_per_prompt"}

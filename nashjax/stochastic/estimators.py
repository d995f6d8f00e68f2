"""Losses whose gradients are the estimators of spec 4 and spec 6, for answers that are actions or texts alike."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

LARGEST_LOG_RATIO = 20.0
"""Where two policies differ by more, weights are cut, lest they overflow."""


class Sample(NamedTuple):
    """What the policies think of samples, `[contexts, samples]` each.

    Attributes:
      log_prob: of the policy that learns, a function of its parameters.
      log_reference: of the reference.
      log_opponent: of the opponent.
      log_center: of the proximal centre; None where a method has none.
    """

    log_prob: jax.Array
    log_reference: jax.Array
    log_opponent: jax.Array
    log_center: jax.Array | None


class Comparisons(NamedTuple):
    """Compared samples.

    Attributes:
      action: `y`, drawn from the policy that learns, or a share of them from the reference.
      opponent: `y'`, drawn from the opponent.
      outcome: how far `y` was preferred over `y'`, in [0, 1], `[contexts, samples]`; where every `y` has met every
        `y'` of its context, `[contexts, samples, opponents]`.
    """

    action: Sample
    opponent: Sample
    outcome: jax.Array


def policy_gradient_loss(
    compared: Comparisons,
    beta: jax.Array | float,
    prox_weight: jax.Array | float,
    *,
    baseline: bool = True,
    both_sides: bool = True,
    exploration: float = 0.0,
) -> jax.Array:
    """Loss whose gradient is the score-function estimator of `-J` (spec 4), unbiased without `exploration`.

    `-mean([w - beta log(p/r)(y) - prox_weight log(p/c)(y) - b] log p(y))`, the bracket held constant; near the optimum
    the logarithms balance the payoffs action by action, so that only the noise of the answers remains.

    An answer also tells what the opponent's sample is worth: with the ratios `p(y')/q(y')` and `q(y)/p(y)`, both 1
    where the two policies agree, it is the answer that `y'` from the policy would have had to `y` from the opponent.
    Near the optimum the mean of the two estimates has little more than half the variance; where the policies are far
    apart the ratios add some of their own.

    With `exploration` some `y` are samples of the reference, each counting as much as any other: the mean is over `m =
    (1 - exploration) p + exploration r`, which then takes the place of `p` in the second ratio. At the optimum the
    bracket is the same for all answers, and less its baseline it vanishes as it does without. Elsewhere the gradient is
    stronger for answers that the policy has all but given up: its own samples hold none, and nothing would bring them
    back.

    Args:
      compared: the samples.
      beta: regularization.
      prox_weight: `beta / eta`; not used without a centre.
      baseline: whether to subtract the mean of the other samples in the same context; else 1/2.
      both_sides: whether to learn from both samples of a comparison.
      exploration: share of the actions that were drawn from the reference, in [0, 1); more than 0 with a baseline only.
    """
    action, opponent, outcome = compared
    all_pairs = outcome.ndim == 3
    answer = jnp.mean(outcome, axis=2) if all_pairs else outcome
    loss = _score_loss(action, answer, jnp.zeros_like(answer), beta, prox_weight, baseline)
    if not both_sides:
        return loss
    log_drawn = action.log_prob
    if exploration:
        shares = jnp.log(jnp.array([1 - exploration, exploration], log_drawn.dtype))
        log_drawn = jnp.logaddexp(shares[0] + action.log_prob, shares[1] + action.log_reference)
    to_opponent = jax.lax.stop_gradient(action.log_opponent - log_drawn)
    to_policy = jax.lax.stop_gradient(opponent.log_prob - opponent.log_opponent)
    ratio = jnp.exp(jnp.minimum(to_opponent, LARGEST_LOG_RATIO))
    answer = 0.5 + (jnp.mean(ratio[..., None] * (0.5 - outcome), axis=1) if all_pairs else ratio * (0.5 - outcome))
    return (loss + _score_loss(opponent, answer, to_policy, beta, prox_weight, baseline)) / 2


def _score_loss(
    sample: Sample,
    answer: jax.Array,
    log_weight: jax.Array,
    beta: jax.Array | float,
    prox_weight: jax.Array | float,
    baseline: bool,
) -> jax.Array:
    """The loss of weighted samples that have had these answers."""
    value = answer - beta * (sample.log_prob - sample.log_reference)
    if sample.log_center is not None:
        value -= prox_weight * (sample.log_prob - sample.log_center)
    weight = jnp.exp(jnp.minimum(log_weight, LARGEST_LOG_RATIO))
    advantage = value - (leave_one_out(value, weight) if baseline else 0.5)
    return -jnp.mean(jax.lax.stop_gradient(weight * advantage) * sample.log_prob)


def leave_one_out(values: jax.Array, weights: jax.Array) -> jax.Array:
    """For each sample, the weighted mean of the others in its context: independent of it, so nothing is biased."""

    def of_others(x: jax.Array) -> jax.Array:
        return jnp.sum(x, axis=-1, keepdims=True) - x

    tiny = jnp.finfo(weights.dtype).tiny
    return of_others(weights * values) / jnp.maximum(of_others(weights), tiny)


def ipo_loss(compared: Comparisons, beta: jax.Array | float) -> jax.Array:
    """Online IPO, `mean((h - (w - 1/2)/beta)^2)` of what was `compared`, `h = log(p/r)(y) - log(p/r)(y')` (spec 6)."""
    return jnp.mean((_margin(compared) - (compared.outcome - 0.5) / beta) ** 2)


def dpo_loss(compared: Comparisons, scale: jax.Array | float) -> jax.Array:
    """Online DPO, `mean(-w log sigmoid(b h) - (1 - w) log sigmoid(-b h))`, `b = scale` (spec 6).

    Args:
      compared: the comparisons; `h` is their margin, as in `ipo_loss`.
      scale: of the margins, > 0.
    """
    logit = scale * _margin(compared)
    w = compared.outcome
    return -jnp.mean(w * jax.nn.log_sigmoid(logit) + (1 - w) * jax.nn.log_sigmoid(-logit))


def _margin(compared: Comparisons) -> jax.Array:
    action, opponent, outcome = compared
    of_action = action.log_prob - action.log_reference
    of_opponent = opponent.log_prob - opponent.log_reference
    return of_action[..., None] - of_opponent[:, None] if outcome.ndim == 3 else of_action - of_opponent

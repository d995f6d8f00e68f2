"""What every method offers, and the step that all policy-gradient methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from nashjax._validation import check_integer, check_number, check_positive, invalid, wrong_type
from nashjax.stochastic.estimators import Comparisons, Sample, policy_gradient_loss
from nashjax.stochastic.policies import Params, default_promotion
from nashjax.stochastic.sampled_game import Asked, SampledGame

T = TypeVar("T")


def linear_decay(progress: jax.Array) -> jax.Array:
    """From 1 at the start of a run, `progress` 0, to 0 at its end, `progress` 1."""
    return 1 - progress


def no_decay(progress: jax.Array) -> jax.Array:
    """1 at all `progress`."""
    return jnp.ones_like(progress)


def check_schedule(schedule: Any) -> None:
    """Raise ValueError unless this is a function."""
    if not callable(schedule):
        raise wrong_type("schedule", "a function of the share of the run", schedule)


@runtime_checkable
class Method(Protocol):
    """A way to learn a policy from comparisons; pure functions of one game. A frozen, hashable dataclass."""

    @property
    def batch_size(self) -> int:
        """Comparisons that a step asks for."""
        ...

    def init(self, game: SampledGame, key: jax.Array) -> Any:
        """The first state, any pytree of arrays."""
        ...

    def step(self, game: SampledGame, state: Any, key: jax.Array, progress: jax.Array) -> tuple[Any, Asked]:
        """Ask `batch_size` comparisons and learn from them; `progress` is the share of the run before this step."""
        ...

    def log_policy(self, game: SampledGame, state: Any) -> jax.Array:
        """The policy learnt so far, `[num_contexts, n]`."""
        ...


class Question(NamedTuple):
    """What a step wants to have compared.

    Attributes:
      contexts: `[contexts]`.
      actions: drawn from the policy that learns, `[contexts, samples]` (or a pytree of arrays that lead with these).
      opponents: drawn from the opponent, the same.
    """

    contexts: jax.Array
    actions: Any
    opponents: Any


class Roles(NamedTuple):
    """The policies beside the one that learns; None where a method has no use for one.

    Attributes:
      opponent: parameters of the opponent, None for the policy that learns itself.
      center: parameters of the proximal centre.
    """

    opponent: Params | None = None
    center: Params | None = None


class LearnerState(NamedTuple):
    """State of a `PolicyMethod`.

    Attributes:
      params: of the policy that learns.
      roles: the policies beside it.
      optimizer: state of the optimiser.
      average: running average of `params`, which is what counts as learnt.
      step: int32, how many steps were made.
    """

    params: Params
    roles: Roles
    optimizer: Any
    average: Params
    step: jax.Array


@dataclasses.dataclass(frozen=True)
class PolicyMethod:
    """Stochastic gradients for the parameters of a policy: what all methods of spec 4 to 6 have in common.

    A subclass, a frozen dataclass too, says who the opponent and the centre are (`start`, `advance`,
    `reference_share`, `prox_weight`) and, if it is no policy gradient, what the `loss` is:

    ```python
    @dataclasses.dataclass(frozen=True)
    class AgainstTheReference(PolicyMethod):
        def reference_share(self, beta):
            return 1.0
    ```

    Attributes:
      learning_rate: of the default optimiser, Adam; > 0. Not used with an `optimizer`. Networks want a smaller one than
        tables, such as 0.003.
      optimizer: an optax transformation in its place, one that needs gradients and parameters only.
      max_gradient_norm: longer gradients are shortened to this before the optimiser sees them; None leaves them. One
        rare sample can otherwise throw Adam's steps off for as long as its second moments take to forget it.
      schedule: factor of every change of the parameters, a function of the share of the run that is done. It also
        applies to an `optimizer`, which had better keep to one rate: methods with moving averages slow these down by
        the same factor. Give `no_decay` with one that has a schedule of its own.
      batch_size: comparisons in a step, >= 2.
      samples_per_context: how many of them share a context, >= 2 and a divisor of `batch_size`; None for all where
        there is one context, else 4 (or `batch_size`, if 4 does not divide it).
      all_pairs: whether to compare every sample of the policy with every one of the opponent in the same context:
        `k^2` comparisons from `k = samples_per_context` samples of each, for judges that cost less than samples. It
        needs `samples_per_context`, the square of which divides `batch_size`.
      averaging: weight of late iterates in the average that is returned, that of step `t` is about `t^averaging`;
        0 weighs all alike, None returns the last iterate.
      baseline: whether policy gradients subtract the leave-one-out baseline.
      both_sides: whether policy gradients also learn from the opponent's sample, see `policy_gradient_loss`. It helps
        where the opponent is near the policy, as in all methods here, and harms where it is far.
      exploration: share of the policy's samples in a context that are drawn from the reference instead, in [0, 1),
        rounded to whole samples, at least one of each kind; see `policy_gradient_loss`. Answers that a network has
        given up by chance come back. For policy gradients with a baseline, without which the optimum would be another.
      exact: whether to follow exact gradients, of an oracle that knows its matrix; the answers are then asked for but
        not used.
    """

    learning_rate: float = 0.03
    optimizer: optax.GradientTransformation | None = None
    max_gradient_norm: float | None = None
    schedule: Callable[[jax.Array], jax.Array] = linear_decay
    batch_size: int = 32
    samples_per_context: int | None = None
    all_pairs: bool = False
    averaging: float | None = 1.0
    baseline: bool = True
    both_sides: bool = True
    exploration: float = 0.0
    exact: bool = False

    def __post_init__(self):
        check_positive("learning_rate", self.learning_rate)
        check_integer("batch_size", self.batch_size, 2)
        if self.max_gradient_norm is not None:
            check_positive("max_gradient_norm", self.max_gradient_norm)
        check_number("exploration", self.exploration, 0.0, 1.0, open_at=(1.0,))
        for name, value, allowed in (("baseline", self.baseline, True), ("exact", self.exact, False)):
            if self.exploration and value is not allowed:
                raise invalid(name, f"{allowed} with exploration > 0", str(value))
        if self.samples_per_context is not None:
            check_integer("samples_per_context", self.samples_per_context, 2)
            if self.batch_size % (self.samples_per_context ** (2 if self.all_pairs else 1)):
                kind = "a number whose square divides" if self.all_pairs else "a divisor of"
                required = f"{kind} batch_size, {self.batch_size}"
                raise invalid("samples_per_context", required, str(self.samples_per_context))
        elif self.all_pairs:
            raise invalid("all_pairs", "False without samples_per_context", "True")
        if self.averaging is not None:
            check_number("averaging", self.averaging)
        check_schedule(self.schedule)
        if self.optimizer is not None and not isinstance(self.optimizer, optax.GradientTransformation):
            raise wrong_type("optimizer", "an optax gradient transformation", self.optimizer)

    # --- what a subclass may say --------------------------------------------------------------------------------------

    def start(self, params: Params) -> Roles:
        """The policies beside the one that learns, at the start."""
        del params
        return Roles()

    def advance(
        self, params: Params, roles: Roles, step: jax.Array, pace: jax.Array
    ) -> tuple[Params, Roles, jax.Array | None]:
        """Move them after a step.

        Args:
          params: of the policy that learns.
          roles: the policies beside it.
          step: counts from 1.
          pace: what the `schedule` has made of the step, 1 for a whole one.

        Returns:
          The parameters to go on from, the new roles, and whether an inner loop has ended (None where there is none).
        """
        del step, pace
        return params, roles, None

    def reference_share(self, beta: jax.Array) -> jax.Array | float:
        """The share of the reference in the opponent that is sampled."""
        del beta
        return 0.0

    def prox_weight(self, beta: jax.Array) -> jax.Array | float:
        """`beta / eta`, the weight of the proximal term."""
        del beta
        return 0.0

    def loss(self, compared: Comparisons, beta: jax.Array) -> jax.Array:
        """A scalar whose gradient is followed downhill."""
        samples = compared.action.log_prob.shape[1]
        return policy_gradient_loss(
            compared,
            beta,
            self.prox_weight(beta),
            baseline=self.baseline,
            both_sides=self.both_sides,
            exploration=self._explored(samples) / samples,
        )

    # --- what all share -----------------------------------------------------------------------------------------------

    def init(self, game: SampledGame, key: jax.Array) -> LearnerState:
        """Start from the first parameters of the game's policy."""
        params = game.init_params(key)
        return LearnerState(params, self.start(params), self._optimizer().init(params), params, jnp.int32(0))

    def step(self, game: Any, state: LearnerState, key: jax.Array, progress: jax.Array) -> tuple[LearnerState, Asked]:
        """Ask `batch_size` comparisons and follow their gradient."""
        gradient, asked = self.gradient(game, state, key)
        return self.update(state, gradient, progress), asked

    def gradient(self, game: Any, state: LearnerState, key: jax.Array) -> tuple[Params, Asked]:
        """The gradient of the loss at a state, from fresh comparisons."""
        for_question, for_answers = jax.random.split(key)
        question = self.ask(game, state, for_question)
        asked = game.compare(for_answers, question.contexts, *self.pairs(question))
        if self.exact:
            return self._exact_gradient(game, state), asked
        return self.learn(game, state, question, asked.outcome)[0], asked

    def ask(self, game: Any, state: LearnerState, key: jax.Array) -> Question:
        """Draw what is to be compared."""
        for_contexts, for_actions, for_opponents = jax.random.split(key, 3)
        samples = self._samples_per_context(game.num_contexts)
        contexts = game.draw_contexts(for_contexts, self.batch_size // (samples**2 if self.all_pairs else samples))
        own = samples - self._explored(samples)
        if self._plays_itself(game, state.roles):
            actions, opponents = _parts(game.sample(state.params, for_actions, contexts, own + samples), own)
        else:
            opponent = state.params if state.roles.opponent is None else state.roles.opponent
            actions = game.sample(state.params, for_actions, contexts, own)
            opponents = game.sample(opponent, for_opponents, contexts, samples, self.reference_share(game.beta))
        if own < samples:
            far = game.sample(state.params, jax.random.fold_in(key, 3), contexts, samples - own, 1.0)
            actions = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), actions, far)
        return Question(contexts, actions, opponents)

    def own(self, samples: T) -> T:
        """Those of a question's actions that the policy itself has given, of arrays `[contexts, samples, ...]`."""
        num = jax.tree.leaves(samples)[0].shape[1]
        return _parts(samples, num - self._explored(num))[0]

    def _explored(self, samples: int) -> int:
        """How many of so many samples are drawn from the reference."""
        return min(max(round(self.exploration * samples), 1), samples - 1) if self.exploration else 0

    def pairs(self, question: Question) -> tuple[Any, Any]:
        """The actions and the opponents that meet, `[contexts, comparisons]` each."""
        if not self.all_pairs:
            return question.actions, question.opponents
        k = self._samples_per_context(question.contexts.shape[0])
        actions = jax.tree.map(lambda y: jnp.repeat(y, k, axis=1), question.actions)
        return actions, jax.tree.map(lambda y: jnp.concatenate([y] * k, axis=1), question.opponents)

    def learn(
        self, game: Any, state: LearnerState, question: Question, outcome: jax.Array
    ) -> tuple[Params, Comparisons]:
        """The gradient of the loss at a state, from answers to a question.

        Args:
          game: what offers `log_prob` and `reference_log_prob`.
          state: where the method stands.
          question: as `ask` has drawn it.
          outcome: how far the one of each of its `pairs` was preferred, `[contexts, comparisons]`.

        Returns:
          The gradient, and what the policies think of the samples.
        """
        contexts, actions, opponents = question
        roles = state.roles
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), actions, opponents)
        share = self.reference_share(game.beta)
        samples = jax.tree.leaves(actions)[0].shape[1]
        if self.all_pairs:
            outcome = outcome.reshape(-1, samples, samples)

        def loss(params: Params) -> tuple[jax.Array, Comparisons]:
            log_prob = game.log_prob(params, contexts, both)
            if self._plays_itself(game, roles):
                log_opponent = jax.lax.stop_gradient(log_prob)
            else:
                opponent = state.params if roles.opponent is None else roles.opponent
                log_opponent = game.log_prob(opponent, contexts, both, share)
            log_center = None if roles.center is None else game.log_prob(roles.center, contexts, both)
            looked_up = Sample(log_prob, game.reference_log_prob(contexts, both), log_opponent, log_center)
            compared = Comparisons(*_parts(looked_up, samples), outcome)
            return self.loss(compared, game.beta), compared

        return jax.grad(loss, has_aux=True)(state.params)

    def _exact_gradient(self, game: Any, state: LearnerState) -> Params:
        params, roles = state.params, state.roles
        opponent = params if roles.opponent is None else roles.opponent
        weight, share = self.prox_weight(game.beta), self.reference_share(game.beta)
        return jax.grad(lambda params: -game.exact_value(params, opponent, roles.center, weight, share))(params)

    def _plays_itself(self, game: Any, roles: Roles) -> bool:
        """Whether the opponent is the policy that learns, so that one draw and one look do for both."""
        share = self.reference_share(game.beta)
        return roles.opponent is None and isinstance(share, float) and share == 0

    def update(self, state: LearnerState, gradient: Params, progress: jax.Array) -> LearnerState:
        """Move the parameters, then the policies beside them."""
        optimizer = self._optimizer()
        with default_promotion():
            changes, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        factor = self.schedule(progress)
        changes = jax.tree.map(lambda x: (factor * x).astype(x.dtype), changes)
        params = optax.apply_updates(state.params, changes)
        step = state.step + 1
        learnt = params
        params, roles, ended = self.advance(params, state.roles, step, factor)
        if ended is not None and not self.keeps_optimizer:
            optimizer_state = choose(ended, optimizer.init(params), optimizer_state)
        average = learnt
        if self.averaging is not None:
            rate = (1 + self.averaging) / (step.astype(progress.dtype) + self.averaging)
            average = move(state.average, learnt, rate)
        return LearnerState(params, roles, optimizer_state, average, step)

    def log_policy(self, game: SampledGame, state: LearnerState) -> jax.Array:
        """The policy of the average parameters, `[num_contexts, n]`."""
        return game.log_policy(state.average)

    @property
    def keeps_optimizer(self) -> bool:
        """Whether an inner loop goes on with the optimiser's state of the one before."""
        return True

    def _optimizer(self) -> optax.GradientTransformation:
        optimizer = optax.adam(self.learning_rate) if self.optimizer is None else self.optimizer
        if self.max_gradient_norm is None:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optimizer)

    def _samples_per_context(self, num_contexts: int) -> int:
        if self.samples_per_context is not None:
            return self.samples_per_context
        return self.batch_size if num_contexts == 1 or self.batch_size % 4 else 4


def _parts(both: T, first: int) -> tuple[T, T]:
    """Samples of two kinds, which lie one after the other in axis 1, the first kind so many."""
    return jax.tree.map(lambda x: x[:, :first], both), jax.tree.map(lambda x: x[:, first:], both)


def choose(condition: jax.Array, yes: T, no: T) -> T:
    """One of two pytrees of like arrays."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def move(average: T, params: T, rate: jax.Array | float) -> T:
    """A step of an exponential moving average, `average + rate (params - average)`."""
    return jax.tree.map(lambda a, p: (a + rate * (p - a)).astype(a.dtype), average, params)

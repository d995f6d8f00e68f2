"""The solvers that `benchmarks/peers.py` measures: for each one small function that says what it is asked to do.

A function gets a `Task` and returns a call that solves it, without arguments, so that imports and tracing stay outside
the time that is taken. The call returns log-policies, `[games, n]`.

One file, though long: a function for each of fifteen solvers.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PLAIN_TARGET = 1e-8
"""Exploitability asked for at beta = 0."""
FIRST_ORDER_TARGET = 1e-6
"""Exploitability asked of first-order methods at beta > 0."""
NEWTON_TARGET = 1e-12
"""Exploitability above which a game counts as unsolved by a method that should reach rounding."""


class Task(NamedTuple):
    """Games of one size and one beta, float64.

    Attributes:
      P: preferences, `[games, n, n]`.
      log_reference: log of the reference policies, `[games, n]`.
      beta: regularisation, the same for all games.
    """

    P: np.ndarray
    log_reference: np.ndarray
    beta: float

    def first(self, count: int) -> Task:
        """The first games only."""
        return Task(self.P[:count], self.log_reference[:count], self.beta)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Normalise log-weights over the last axis."""
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def exploitability(task: Task, log_policy: np.ndarray) -> np.ndarray:
    """What the best response gains over each policy, `[games]`: float64 numpy only, in the accurate form of spec 2."""
    A = (task.P - np.swapaxes(task.P, -1, -2)) / 2
    log_p = log_softmax(np.asarray(log_policy, np.float64))
    payoffs = np.einsum("bij,bj->bi", A, np.exp(log_p))
    if task.beta == 0:
        return np.maximum(payoffs.max(-1), 0)
    log_b = log_softmax(task.log_reference + payoffs / task.beta)
    with np.errstate(invalid="ignore"):
        d = log_b - log_p
    p, b = np.exp(log_p), np.exp(log_b)
    with np.errstate(invalid="ignore", over="ignore"):
        terms = np.where(d <= 1, p * (np.expm1(np.minimum(d, 1)) - d), b - p - p * d)
    return task.beta * np.where(p == 0, b, terms).sum(-1)


def _one_by_one(task: Task, solve_one: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
    """A loop over the games for a peer that takes one at a time and answers with a log-policy."""

    def solve_all() -> np.ndarray:
        return np.stack([solve_one(P, log_r) for P, log_r in zip(task.P, task.log_reference, strict=True)])

    return solve_all


def _log(weights: Any) -> np.ndarray:
    """Log of weights that may be a little below 0 by rounding; NaN where the peer found no policy."""
    weights = np.maximum(np.asarray(weights, np.float64), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(weights / weights.sum(-1, keepdims=True))


# --- beta = 0 ---------------------------------------------------------------------------------------------------------


def highs(task: Task) -> Callable[[], np.ndarray]:
    """`scipy.optimize.linprog` with HiGHS and its default tolerances.

    `min sum x` subject to `(A + 1) x >= 1`, `x >= 0`, the quickest of three forms at n = 100 and 500.
    """
    linprog = importlib.import_module("scipy.optimize").linprog

    def solve_one(P: np.ndarray, _: np.ndarray) -> np.ndarray:
        ones = np.ones(len(P))
        found = linprog(ones, A_ub=-(P.T + 0.5), b_ub=-ones, method="highs")
        return _log(ones * np.nan if found.x is None else found.x)

    return _one_by_one(task, solve_one)


def quantecon_minmax(task: Task) -> Callable[[], np.ndarray]:
    """`quantecon.optimize.minmax`: the simplex method, compiled by numba."""
    minmax = importlib.import_module("quantecon.optimize").minmax
    return _one_by_one(task, lambda P, _: _log(minmax(P - 0.5)[1]))


def quantecon_lemke_howson(task: Task) -> Callable[[], np.ndarray]:
    """`quantecon.game_theory.lemke_howson`: complementary pivoting, compiled by numba."""
    theory = importlib.import_module("quantecon.game_theory")

    def solve_one(P: np.ndarray, _: np.ndarray) -> np.ndarray:
        players = theory.Player(P - 0.5), theory.Player(P - 0.5)
        return _log(theory.lemke_howson(theory.NormalFormGame(players))[0])

    return _one_by_one(task, solve_one)


def nashpy_lemke_howson(task: Task) -> Callable[[], np.ndarray]:
    """`nashpy.Game.lemke_howson` (its linear programme is scipy's, measured as `highs`).

    A game is given up after 0.2 seconds: on some it goes round in circles for ever.
    """
    nashpy = importlib.import_module("nashpy")

    def give_up(*_: object) -> None:
        raise TimeoutError

    def solve_one(P: np.ndarray, _: np.ndarray) -> np.ndarray:
        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            row, _ = nashpy.Game(P - 0.5, 0.5 - P).lemke_howson(initial_dropped_label=0)
        except TimeoutError:
            row = ()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return _log(row if len(row) == len(P) else np.full(len(P), np.nan))

    return _one_by_one(task, solve_one)


def mpax(task: Task) -> Callable[[], Any]:
    """`mpax.raPDHG`, a first-order LP solver, under `jit(vmap(...))` in float64, tolerances 1e-9.

    Finds a feasible point of `A p <= 0`, `sum p = 1`, `p >= 0`: the value of the game is known to be 0.
    """
    package = importlib.import_module("mpax")
    solver = package.raPDHG(eps_abs=1e-9, eps_rel=1e-9, iteration_limit=100_000)
    n = task.P.shape[-1]

    @jax.jit
    @jax.vmap
    def solve(P: jax.Array) -> jax.Array:
        zero, one = jnp.zeros(n), jnp.ones(n)
        program = package.create_lp(zero, one[None], one[:1], 0.5 - P, zero, zero, one, use_sparse_matrix=False)
        weights = jnp.maximum(solver.optimize(program).primal_solution, 0)
        return jnp.log(weights / weights.sum())

    P = jnp.asarray(task.P)
    return lambda: solve(P)


# --- beta > 0, by others ----------------------------------------------------------------------------------------------


def gambit_logit(task: Task) -> Callable[[], np.ndarray]:
    """`pygambit.qre.logit_solve_lambda` at lambda = 1/beta: follows the logit branch from lambda = 0.

    It has no tolerance for this; steps that grow by up to 1.5 were quicker and ended nearer than the default's 1.1.
    """
    gambit = importlib.import_module("pygambit")

    def solve_one(P: np.ndarray, _: np.ndarray) -> np.ndarray:
        game = gambit.Game.from_arrays(P, P.T)
        profile = gambit.qre.logit_solve_lambda(game, lam=1 / task.beta, max_accel=1.5)[0].profile
        row, _ = game.players
        return _log([float(profile[strategy]) for strategy in row.strategies])

    return _one_by_one(task, solve_one)


def open_spiel_mmd(task: Task) -> Callable[[], np.ndarray]:
    """Magnetic mirror descent of `open_spiel` with its own step, to exploitability 1e-6, looked at every 10 steps."""
    spiel = importlib.import_module("pyspiel")
    mmd = importlib.import_module("open_spiel.python.algorithms.mmd_dilated")

    def solve_one(P: np.ndarray, log_r: np.ndarray) -> np.ndarray:
        A = P - 0.5
        method = mmd.MMDDilatedEnt(spiel.convert_to_turn_based(spiel.create_matrix_game(A, -A)), alpha=task.beta)
        one = Task(P[None], log_r[None], task.beta)
        while True:
            # Entry 0 is the empty sequence; the row player's policy follows in the order of the actions.
            log_policy = _log(method.current_sequences()[0][1:])
            if exploitability(one, log_policy[None])[0] <= FIRST_ORDER_TARGET:
                return log_policy
            for _ in range(10):
                method.update_sequences()

    return _one_by_one(task, solve_one)


@functools.cache
def _optimistix(name: str, beta: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A solver of optimistix on `u = normalise(log r + P exp(u) / beta)` under `jit(vmap(...))`.

    Float64, from `u = log r`, tolerances 1e-10, at most the 256 steps that are its default.
    """
    package = importlib.import_module("optimistix")
    solver = getattr(package, name)(rtol=1e-10, atol=1e-10)
    fixed_point = name == "FixedPointIteration"
    search = package.fixed_point if fixed_point else package.root_find

    def function(u: jax.Array, game: tuple[jax.Array, jax.Array]) -> jax.Array:
        P, log_r = game
        response = jax.nn.log_softmax(log_r + P @ jnp.exp(u) / beta)
        return response if fixed_point else u - response

    @jax.jit
    @jax.vmap
    def solve(P: jax.Array, log_r: jax.Array) -> jax.Array:
        return search(function, solver, log_r, args=(P, log_r), throw=False).value

    return solve


def _prepare_optimistix(task: Task, name: str) -> Callable[[], Any]:
    arguments = jnp.asarray(task.P), jnp.asarray(task.log_reference)
    return lambda: _optimistix(name, task.beta)(*arguments)


def optimistix_newton(task: Task) -> Callable[[], Any]:
    """Newton's method, undamped."""
    return _prepare_optimistix(task, "Newton")


def optimistix_dogleg(task: Task) -> Callable[[], Any]:
    """Powell's dogleg, a trust-region method."""
    return _prepare_optimistix(task, "Dogleg")


def optimistix_levenberg_marquardt(task: Task) -> Callable[[], Any]:
    """The damped least-squares method."""
    return _prepare_optimistix(task, "LevenbergMarquardt")


def optimistix_fixed_point(task: Task) -> Callable[[], Any]:
    """Best responses, repeated: no contraction unless beta is large."""
    return _prepare_optimistix(task, "FixedPointIteration")


# --- beta > 0, what one would write oneself ---------------------------------------------------------------------------


def numpy_newton(task: Task) -> Callable[[], np.ndarray]:
    """Newton's method with halved steps and continuation in beta, to rounding, in numpy."""
    return _one_by_one(task, lambda P, log_r: newton_with_continuation(P, log_r, task.beta))


def newton_with_continuation(P: np.ndarray, log_r: np.ndarray, beta: float) -> np.ndarray:
    """The log-policy of one game; NaN where the steps get stuck."""
    A, identity = P - 0.5, np.eye(len(P))

    def residual(u: np.ndarray, b: float) -> np.ndarray:
        return log_softmax(log_r + A @ np.exp(u) / b) - u

    u = log_r
    for b in np.geomspace(max(beta, 1.0), beta, 8):
        r = residual(u, b)
        for _ in range(60):
            p, response = np.exp(u), np.exp(r + u)
            move = np.linalg.solve(identity - (A - response @ A) * p / b, r)
            fraction, size = 1.0, np.abs(r).max()
            while fraction > 1e-4 and np.abs(residual(u + fraction * move, b)).max() > size:
                fraction /= 2
            following = residual(u + fraction * move, b)
            if np.abs(following).max() >= size:  # as small as rounding allows
                break
            u, r = u + fraction * move, following
            if b > beta and np.abs(r).max() < 1e-3:  # near enough to go on to the next
                break
    return u if np.abs(residual(u, beta)).max() < 1e-9 else u * np.nan


def numpy_nash_mp(task: Task) -> Callable[[], np.ndarray]:
    """Nash Mirror Prox with the paper's step, to exploitability 1e-6, in numpy."""
    eta = 2 * task.beta

    def solve_one(P: np.ndarray, log_r: np.ndarray) -> np.ndarray:
        log_p = log_r
        while True:
            payoffs = P @ np.exp(log_p)
            best = log_softmax(log_r + payoffs / task.beta)
            if task.beta * np.sum(np.exp(log_p) * (log_p - best)) <= FIRST_ORDER_TARGET:
                return log_p
            opponent = log_softmax((2 * payoffs + eta * log_r + log_p) / (1 + eta))
            log_p = log_softmax((2 * (P @ np.exp(opponent)) + eta * log_r + log_p) / (1 + eta))

    return _one_by_one(task, solve_one)


def textbook_fixed(task: Task) -> Callable[[], Any]:
    """`jit(vmap(while_loop))` of Nash Mirror Prox with the paper's step, float32, to exploitability 1e-6."""
    beta = task.beta

    def solve_one(P: jax.Array, log_r: jax.Array) -> jax.Array:
        def unsolved(log_p: jax.Array) -> jax.Array:
            best = jax.nn.log_softmax(log_r + P @ jnp.exp(log_p) / beta)
            return beta * jnp.sum(jnp.exp(log_p) * (log_p - best)) > FIRST_ORDER_TARGET

        def proximal_map(log_center: jax.Array, opponent: jax.Array) -> jax.Array:
            payoffs = P @ jnp.exp(opponent)
            return jax.nn.log_softmax((2 * payoffs + 2 * beta * log_r + log_center) / (1 + 2 * beta))

        def step(log_p: jax.Array) -> jax.Array:
            return proximal_map(log_p, proximal_map(log_p, log_p))

        return jax.lax.while_loop(unsolved, step, log_r)

    return _vmapped(solve_one, task)


def textbook_adaptive(task: Task) -> Callable[[], Any]:
    """`jit(vmap(while_loop))` of Nash Mirror Prox with adaptive steps, float32, to exploitability 1e-6.

    Spec 3 in its plainest form: the step grows by 1.35 after an accepted trial and shrinks by 0.6 after a rejected one.
    """
    beta = task.beta

    def solve_one(P: jax.Array, log_r: jax.Array) -> jax.Array:
        def divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
            return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

        def unsolved(state: tuple[jax.Array, jax.Array]) -> jax.Array:
            log_p, _ = state
            best = jax.nn.log_softmax(log_r + P @ jnp.exp(log_p) / beta)
            return beta * divergence(log_p, best) > FIRST_ORDER_TARGET

        def step(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            log_p, s = state
            eta = s * beta

            def proximal_map(payoffs: jax.Array) -> jax.Array:
                return jax.nn.log_softmax((s * payoffs + eta * log_r + log_p) / (1 + eta))

            payoffs = P @ jnp.exp(log_p)
            opponent = proximal_map(payoffs)
            answer = P @ jnp.exp(opponent)
            moved = proximal_map(answer)
            error = s * jnp.dot(answer - payoffs, jnp.exp(moved) - jnp.exp(opponent))
            room = divergence(opponent, log_p) + (1 + eta) * divergence(moved, opponent)
            accepted = (error <= room) | (s <= 2)
            return jnp.where(accepted, moved, log_p), jnp.where(accepted, s * 1.35, jnp.maximum(s * 0.6, 2))

        return jax.lax.while_loop(unsolved, step, (log_r, jnp.asarray(16, P.dtype)))[0]

    return _vmapped(solve_one, task)


def _vmapped(solve_one: Callable[[jax.Array, jax.Array], jax.Array], task: Task) -> Callable[[], Any]:
    solve = jax.jit(jax.vmap(solve_one))
    arguments = jnp.asarray(task.P, jnp.float32), jnp.asarray(task.log_reference, jnp.float32)
    return lambda: solve(*arguments)


# ----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Peer:
    """A solver to compare with.

    Attributes:
      prepare: from a task to the call that solves it.
      package: distribution that it needs.
      regularized: it solves beta > 0; the others solve beta = 0.
      one_by_one: it takes one game at a time, so a sample of the games is measured.
      dtype: what it computes in.
      target: exploitability above which a game counts as unsolved.
    """

    prepare: Callable[[Task], Callable[[], Any]]
    package: str
    regularized: bool = True
    one_by_one: bool = False
    dtype: str = "float64"
    target: float = NEWTON_TARGET


PEERS = {
    "highs": Peer(highs, "scipy", regularized=False, one_by_one=True, target=PLAIN_TARGET),
    "quantecon minmax": Peer(quantecon_minmax, "quantecon", regularized=False, one_by_one=True, target=PLAIN_TARGET),
    "quantecon lemke_howson": Peer(
        quantecon_lemke_howson, "quantecon", regularized=False, one_by_one=True, target=PLAIN_TARGET
    ),
    "nashpy lemke_howson": Peer(nashpy_lemke_howson, "nashpy", regularized=False, one_by_one=True, target=PLAIN_TARGET),
    "mpax": Peer(mpax, "mpax", regularized=False, target=PLAIN_TARGET),
    "pygambit logit": Peer(gambit_logit, "pygambit", one_by_one=True),
    "open_spiel mmd": Peer(open_spiel_mmd, "open_spiel", one_by_one=True, target=FIRST_ORDER_TARGET),
    "optimistix Newton": Peer(optimistix_newton, "optimistix"),
    "optimistix Dogleg": Peer(optimistix_dogleg, "optimistix"),
    "optimistix LevenbergMarquardt": Peer(optimistix_levenberg_marquardt, "optimistix"),
    "optimistix FixedPointIteration": Peer(optimistix_fixed_point, "optimistix"),
    "numpy newton": Peer(numpy_newton, "numpy", one_by_one=True),
    "numpy nash_mp": Peer(numpy_nash_mp, "numpy", one_by_one=True, target=FIRST_ORDER_TARGET),
    "textbook fixed": Peer(textbook_fixed, "jax", dtype="float32", target=FIRST_ORDER_TARGET),
    "textbook adaptive": Peer(textbook_adaptive, "jax", dtype="float32", target=FIRST_ORDER_TARGET),
}

"""Derivatives of the metrics where probabilities and references are 0."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistyped import anything

import nashjax as nj
from nashjax.algorithms import ExtragradientRM, PredictiveRM

A = np.tanh(np.array([[0, 1, -2, 0.3, 5], [0, 0, 0.7, -1, 2], [0, 0, 0, 0.4, -3], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0.0]]))
P = 0.5 + (A - A.T) / 2
REFERENCE = np.array([0.3, 0.3, 0.4, 0, 0])
POLICY = np.array([0.2, 0.8, 0, 0, 0])  # action 2 is not played, actions 3 and 4 are excluded
OTHER = np.array([0.5, 0.3, 0.2, 0, 0])
METRICS: dict[str, tuple[np.ndarray, Callable]] = {
    "entropy": (POLICY, nj.metrics.entropy),
    "kl_divergence in policy": (POLICY, lambda p: nj.metrics.kl_divergence(p, OTHER.astype(p.dtype))),
    "kl_divergence in other": (OTHER, lambda q: nj.metrics.kl_divergence(POLICY.astype(q.dtype), q)),
    "exploitability in policy": (POLICY, lambda p: nj.metrics.exploitability(as_game(p), p, 0.1, REFERENCE)),
    "exploitability in reference": (REFERENCE, lambda r: nj.metrics.exploitability(as_game(r), POLICY, 0.1, r)),
    "exploitability at beta 0": (POLICY, lambda p: nj.metrics.exploitability(as_game(p), p, 0.0, REFERENCE)),
    "best_response in policy": (POLICY, lambda p: nj.metrics.best_response(as_game(p), p, 0.1, REFERENCE)),
    "best_response in reference": (REFERENCE, lambda r: nj.metrics.best_response(as_game(r), POLICY, 0.1, r)),
    "best_response at beta 0": (REFERENCE, lambda r: nj.metrics.best_response(as_game(r), POLICY, 0.0, r)),
    "uniqueness": (POLICY, lambda p: nj.metrics.uniqueness(as_game(p), p, REFERENCE).margin),
}


def as_game(x: jax.Array) -> np.ndarray:
    return P.astype(x.dtype)


def difference(function: Callable, at: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The central difference of a compiled function, which does not check that probabilities sum to 1."""
    step, run = 1e-6, jax.jit(function)
    return np.asarray(run(at + step * direction) - run(at - step * direction)) / (2 * step)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", METRICS)
def test_derivatives_are_finite_and_right_where_probabilities_are_0(name, dtype):
    at, metric = METRICS[name]
    with jax.debug_nans(True):
        both = jax.jit(lambda x: (jax.jacfwd(metric)(x), jax.jacrev(metric)(x)))
        forward, reverse = map(np.asarray, both(jnp.asarray(at, dtype)))
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(forward, reverse, rtol=1e-5, atol=1e-6)
    # Along changes of the remaining actions that keep the sum.
    remaining = at > 0
    for i in np.flatnonzero(remaining)[1:]:
        direction = np.zeros(5)
        direction[[np.argmax(remaining), i]] = 1, -1
        tolerance = 1e-7 if dtype == np.float64 else 1e-5
        np.testing.assert_allclose(forward @ direction, difference(metric, at, direction), atol=tolerance)


@pytest.mark.parametrize("name", ["best_response in policy", "exploitability at beta 0"])
def test_metrics_depend_on_an_action_that_is_allowed_and_not_played(name):
    _, metric = METRICS[name]
    with jax.debug_nans(True):
        found = np.asarray(jax.jit(jax.jacrev(metric))(jnp.asarray(POLICY)))
    direction, step, run = np.array([-1.0, 0, 1, 0, 0]), 1e-7, jax.jit(metric)
    one_sided = np.asarray(run(POLICY + step * direction) - run(POLICY)) / step
    np.testing.assert_allclose(found @ direction, one_sided, rtol=1e-5, atol=1e-7)
    assert np.abs(found[..., 2]).max() > 0.1
    np.testing.assert_array_equal(found[..., 3:], 0)  # excluded actions are not part of the game


def test_a_probability_of_0_has_derivative_0_where_the_true_one_is_infinite():
    with jax.debug_nans(True):
        np.testing.assert_array_equal(jax.grad(nj.metrics.entropy)(jnp.asarray(POLICY))[2:], 0)
        divergence = jax.grad(nj.metrics.kl_divergence)(jnp.asarray(POLICY), jnp.asarray(OTHER))
        np.testing.assert_array_equal(divergence[2:], 0)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_exploitability_has_its_derivative_in_beta_at_beta_0(mode):
    def metric(beta: jax.Array | float) -> jax.Array:
        return nj.metrics.exploitability(P, POLICY, beta, REFERENCE)

    with jax.debug_nans(True):
        found = mode(metric)(0.0)
    np.testing.assert_allclose(found, (metric(1e-5) - metric(0.0)) / 1e-5, rtol=1e-6)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_have_finite_derivatives_at_exploitability_0_and_at_beta_0(mode, dtype):
    E, beta = np.array([0, 1e-3, 1e-3, 0], dtype), np.array([0.1, 0.1, 0, 0], dtype)
    with jax.debug_nans(True):
        for bound in (nj.metrics.kl_bound, nj.metrics.l1_bound):
            in_both = mode(lambda E, beta, bound=bound: bound(E, beta).sum(), (0, 1))(E, beta)
            assert np.isfinite(in_both).all()
        in_E, in_beta = mode(lambda E, beta: nj.metrics.kl_bound(E, beta).sum(), (0, 1))(E, beta)
    np.testing.assert_allclose(in_E, [10, 10, 0, 0], rtol=1e-3)  # E / beta, and inf whatever E is
    np.testing.assert_allclose(in_beta, [0, -0.1, 0, 0], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_span_has_derivatives_where_actions_are_excluded(mode):
    log_p, log_q = (
        jnp.asarray(np.log(np.maximum(x, 0), where=x > 0, out=np.full(5, -np.inf))) for x in (POLICY, OTHER)
    )
    with jax.debug_nans(True):
        np.testing.assert_array_equal(mode(nj.metrics.span)(log_p, log_q), [-1, 1, 0, 0, 0])


def test_not_a_number_stays_one_in_the_entropy():
    assert np.isnan(jax.jit(nj.metrics.entropy)(np.array([np.nan, 0.5, 0.5])))


@pytest.mark.parametrize("algorithm", [PredictiveRM(), ExtragradientRM()])
def test_trajectories_have_derivatives_where_actions_are_excluded(algorithm):
    def last(x: jax.Array) -> jax.Array:
        game = P + x * np.triu(np.ones((5, 5)), 1) - x * np.tril(np.ones((5, 5)), -1)
        path = nj.trajectory(game, 0.0, algorithm=algorithm, num_steps=3, reference=REFERENCE)
        return jnp.exp(path.log_policy[-1])

    forward, reverse, above, below = jax.jit(
        lambda x: (jax.jacfwd(last)(x), jax.jacrev(last)(x), last(x + 1e-6), last(x - 1e-6))
    )(0.0)
    np.testing.assert_allclose(forward, (above - below) / 2e-6, atol=1e-7)
    np.testing.assert_allclose(reverse, forward, atol=1e-12)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_solutions_have_derivatives_where_probabilities_underflow(mode):
    beaten = np.array([[0.5, 0.9, 1], [0.1, 0.5, 1], [0, 0, 0.5]])

    def policy(reference: jax.Array) -> jax.Array:
        return nj.solve(beaten, 1e-3, reference=reference, tol=1e-12).policy

    at, differentiate = (np.array([0.5, 0.5, 0]), np.array([0.4, 0.3, 0.3])), jax.jit(mode(policy))
    for reference in at:
        with jax.debug_nans(True):
            assert np.isfinite(differentiate(jnp.asarray(reference))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.kl_divergence(np.full((2, 2), 0.5), np.full((3, 2), 0.5)), "got policy [2], other [3]."),
        (lambda m: m.kl_bound(np.ones(2), np.ones(3)), "got exploitability [2], beta [3]."),
        (lambda m: m.kl_divergence([0.5, 0.5], [0.2, 0.3, 0.5]), "policy and other must have equal last axes, got"),
        (lambda m: m.entropy(1.0), "policy must be an array [..., n] with an entry for each action, got a single"),
        (lambda m: m.span(np.zeros((2, 4)), np.zeros(3)), "log_policy and other must have equal last axes, got"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(nj.metrics)


def test_lists_of_traced_numbers_are_policies():
    half: Any = [0.5, 0.5]
    found = jax.jit(lambda x: nj.metrics.kl_divergence(anything([x, 1 - x]), half))(0.2)
    np.testing.assert_allclose(found, 0.2 * np.log(0.4) + 0.8 * np.log(1.6), rtol=1e-12)

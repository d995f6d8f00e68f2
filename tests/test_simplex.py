import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent import exact_kl
from scipy.stats import entropy as scipy_entropy

from nashjax._math import simplex

log_weights = st.lists(st.floats(-30, 30), min_size=2, max_size=12)


def test_normalize_sums_to_one_and_keeps_excluded_actions_out():
    v = jnp.array([[1000.0, -1.0], [-jnp.inf, 2.0], [999.0, -jnp.inf]])
    p = np.exp(simplex.normalize(v))
    np.testing.assert_allclose(p.sum(0), 1, rtol=1e-15)
    assert p[1, 0] == 0
    assert p[2, 1] == 0
    np.testing.assert_allclose(p[0, 0], 1 / (1 + np.exp(-1)), rtol=1e-15)


@settings(deadline=None, max_examples=60)
@given(log_weights, st.integers(0, 2**31 - 1), st.floats(-12, 0.5))
def test_kl_agrees_with_sixty_digits_far_and_near(weights, seed, log_distance):
    """From far apart to 1e-12 apart the error stays at the rounding of the inputs, eps * sqrt(KL)."""
    u = np.array(weights)
    v = u + 10**log_distance * np.random.default_rng(seed).standard_normal(len(u))
    log_p, log_q = simplex.normalize(jnp.array(u)), simplex.normalize(jnp.array(v))
    exact = exact_kl(np.exp(u), np.exp(v))
    found = float(simplex.kl_divergence(log_p, log_q))
    eps = 2.3e-16 * (1 + np.abs(u).max())
    assert found >= 0
    assert abs(found - exact) <= 8 * eps * (np.sqrt(exact) + exact) + eps**2


def test_kl_at_the_edges():
    inf = jnp.inf
    log = lambda *p: jnp.log(jnp.array(p))  # noqa: E731
    assert simplex.kl_divergence(log(0.5, 0.5, 0), log(0.5, 0.5, 0)) == 0
    assert simplex.kl_divergence(log(0.5, 0.5), log(1.0, 0.0)) == inf
    np.testing.assert_allclose(simplex.kl_divergence(log(1.0, 0.0), log(0.5, 0.5)), np.log(2), rtol=1e-15)
    # A probability that underflows: neither NaN nor overflow from its ratio.
    tiny = jnp.array([0.0, -2000.0])
    np.testing.assert_allclose(simplex.kl_divergence(tiny, log(0.5, 0.5)), np.log(2), rtol=1e-15)
    np.testing.assert_allclose(simplex.kl_divergence(log(0.5, 0.5), tiny), np.log(0.5) + 1000, rtol=1e-15)


def test_kl_of_a_batch_is_that_of_its_columns():
    rng = np.random.default_rng(0)
    log_p, log_q = (simplex.normalize(jnp.array(rng.standard_normal((7, 3, 2)))) for _ in range(2))
    whole = simplex.kl_divergence(log_p, log_q)
    assert whole.shape == (3, 2)
    for i, j in np.ndindex(3, 2):
        np.testing.assert_allclose(
            whole[i, j], scipy_entropy(np.exp(log_p[:, i, j]), np.exp(log_q[:, i, j])), rtol=1e-13
        )


def test_span_ignores_constants_and_excluded_actions():
    u = jnp.array([0.3, -0.2, -jnp.inf, 1.0])
    v = jnp.array([0.0, 0.5, 2.0, 1.0])
    np.testing.assert_allclose(simplex.span(u, v), 1.0, rtol=1e-15)
    np.testing.assert_allclose(simplex.span(u + 5, v), 1.0, rtol=1e-14)


@pytest.mark.parametrize("n", [2, 5])
def test_entropy_of_the_uniform_policy_is_log_n(n):
    log_p = jnp.concatenate([jnp.full(n, -np.log(n)), jnp.array([-jnp.inf])])
    np.testing.assert_allclose(simplex.entropy(log_p), np.log(n), rtol=1e-15)

"""Every method: what it converges to, and that the exact form walks the exact path.

One file, though long: all methods go through the same checks, on the same games.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj

pytest.importorskip("flax", reason="needs the extra `train`")
pytest.importorskip("optax", reason="needs the extra `train`")

import optax

from nashjax import stochastic as st
from nashjax.stochastic.methods import linear_decay, no_decay
from nashjax.stochastic.sampled_game import draw
from tests.mistyped import anything

BETA = 0.1


GAMES = nj.games.random_game(jax.random.key(11), 6, (8,), "gaussian", scale=2.0)
START = float(nj.metrics.exploitability(GAMES, jnp.full((8, 6), 1 / 6), BETA).mean())
METHODS = {
    "nash mp": (st.StochasticNashMP(), 0.02),
    "nash mp, cold": (st.StochasticNashMP(warm=False, keep_optimizer=False), 0.1),
    "nash mp, sgd": (st.StochasticNashMP(optimizer=optax.sgd(2.0)), 0.05),
    "two averages": (st.AveragedNashMP.two_average(), 0.02),
    "target": (st.AveragedNashMP.target(), 0.02),
    "proximal point": (st.AveragedNashMP.proximal_point(), 0.02),
    "nash prox": (st.StochasticNashProx(), 0.02),
    "mmd": (st.MMDPolicyGradient(), 0.02),
    "nash md": (st.NashMDPolicyGradient(mixture=0.05), 0.1),
    "self play": (st.SelfPlayPolicyGradient(), 0.02),
    "ipo": (st.OnlineIPO(), 0.02),
    "closed form": (st.ClosedFormNashMP(), 0.02),
    "plug-in": (st.PlugIn(), 0.005),
    "plug-in, equilibrium": (st.PlugIn(ask="equilibrium"), 0.005),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_near_the_equilibrium(name):
    method, share = METHODS[name]
    oracle = st.BernoulliOracle(GAMES)
    result = st.train(oracle, BETA, method=method, num_comparisons=64_000, key=jax.random.key(0), num_records=2)
    assert result.policy.shape == (8, 6)
    np.testing.assert_allclose(result.policy.sum(-1), 1, atol=1e-6)
    # What it says of itself is what the library says of its policy.
    judged = nj.metrics.exploitability(GAMES, result.policy, BETA)
    np.testing.assert_allclose(result.exploitability, judged, atol=1e-9)
    assert judged.mean() <= share * START
    assert judged.max() <= 4 * share * START
    assert (result.comparisons <= 64_000).all()
    assert (result.comparisons > 64_000 - method.batch_size).all()


def test_dpo_moves_to_a_point_of_its_own():
    result = st.train(
        st.BernoulliOracle(GAMES),
        BETA,
        method=st.OnlineDPO(scale=1.0),
        num_comparisons=64_000,
        key=jax.random.key(0),
    )
    assert not result.diverged.any()
    assert result.exploitability.mean() > 0.05 * START  # spec 6 promises nothing else
    moved = np.abs(result.policy - 1 / 6).sum(-1)
    assert moved.mean() > 0.2
    other = st.train(
        st.BernoulliOracle(GAMES),
        BETA,
        method=st.OnlineDPO(scale=1.0),
        num_comparisons=64_000,
        key=jax.random.key(1),
    )
    assert np.abs(result.policy - other.policy).sum(-1).mean() < moved.mean() / 4


@pytest.mark.parametrize(("eta", "beta"), [(None, 0.1), (None, 0.5), (0.5, 0.2)])
def test_exact_gradients_and_many_inner_steps_walk_the_exact_path(eta, beta):
    """Spec 4: with exact gradients and `T -> inf` it is spec 3, iterate by iterate."""
    reference = np.array([0.3, 0.1, 0.15, 0.2, 0.05, 0.2])
    inner, outer = 4000, 4
    method = st.StochasticNashMP(
        eta=eta,
        inner_steps=inner,
        batch_size=2,
        optimizer=optax.sgd(4.0),
        schedule=no_decay,
        averaging=None,
        exact=True,
    )
    result = st.train(
        st.ProbabilityOracle(GAMES),
        beta,
        method=method,
        num_comparisons=2 * inner * 2 * outer,
        num_records=1,
        key=jax.random.key(0),
        reference=reference,
    )
    exact = nj.trajectory(
        GAMES, beta, algorithm=nj.NashMP(eta=2 * beta if eta is None else eta), num_steps=outer, reference=reference
    )
    np.testing.assert_allclose(result.log_policy, exact.log_policy[:, outer], atol=1e-5)
    assert np.abs(exact.log_policy[:, outer] - exact.log_policy[:, outer - 1]).max() > 1e-3  # it still moves


def test_a_prior_counts_comparisons_of_each_pair_half_won_by_each():
    method = st.PlugIn(prior=2.0)
    game = st.SampledGame(
        st.BernoulliOracle(np.full((2, 2), 0.5)), st.TabularPolicy(), jnp.asarray(BETA), jnp.full((1, 2), -np.log(2))
    )
    state = method.init(game, jax.random.key(0))._replace(wins=jnp.array([[[0.0, 3], [1, 0]]]))
    np.testing.assert_allclose(method.estimate(state).preferences, [[[0.5, 4 / 6], [2 / 6, 0.5]]])


def test_the_closed_form_estimates_payoffs_without_bias():
    game = st.SampledGame(
        st.BernoulliOracle(nj.MatrixGame(GAMES.preferences[:2]), contextual=True),
        st.TabularPolicy(),
        jnp.asarray(BETA),
        jnp.full((2, 6), -np.log(6)),
    )
    log_policy = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (2, 6)), axis=-1)
    method = st.ClosedFormNashMP(batch_size=64, uniform_share=0.3)
    keys = jax.random.split(jax.random.key(2), 10_000)
    found = np.asarray(jax.vmap(lambda key: method.payoffs(game, log_policy, key)[0])(keys))
    expected = np.einsum("cij,cj->ci", GAMES.preferences[:2], np.exp(log_policy)) - 0.5
    error = found.std(axis=0, ddof=1) / 100
    assert np.all(np.abs(found.mean(axis=0) - expected) <= 4 * error)
    assert np.all(error < 0.02)


def test_plug_in_counts_what_it_asked():
    oracle = st.BernoulliOracle(GAMES)
    result = st.train(oracle, BETA, method=st.PlugIn(), num_comparisons=10_000, key=jax.random.key(3))
    wins = np.asarray(result.state.wins + result.state.recent)[:, 0]
    np.testing.assert_allclose(wins.sum((-1, -2)), result.comparisons)
    assert np.all(wins[:, np.arange(6), np.arange(6)] == 0)  # no action is compared with itself
    asked = wins + np.swapaxes(wins, -1, -2)
    assert asked[:, ~np.eye(6, dtype=bool)].min() > 0.8 * 10_000 / 15
    rate = np.where(asked > 0, wins / np.maximum(asked, 1), 0.5)
    assert np.abs(rate - np.asarray(GAMES.preferences)).max() < 5 * 0.5 / np.sqrt(10_000 / 15)


def test_excluded_actions_are_never_asked_about_nor_played():
    asked = set()

    def prefer_larger(context, action, opponent):
        asked.update(action.tolist(), opponent.tolist())
        return np.where(action == opponent, 0.5, action > opponent)

    reference = np.array([0.5, 0.0, 0.3, 0.2, 0.0])
    for method in (
        st.StochasticNashMP(),
        st.PlugIn(),
        st.ClosedFormNashMP(),
        st.NashMDPolicyGradient(),
        st.OnlineIPO(),
    ):
        asked.clear()
        result = st.train(
            st.CallableOracle(prefer_larger, 5),
            0.1,
            method=method,
            num_comparisons=2560,
            key=jax.random.key(0),
            reference=reference,
            num_records=2,
        )
        assert asked == {0, 2, 3}, method
        assert np.all(np.asarray(result.policy)[[1, 4]] == 0)
        assert not result.diverged
        assert result.policy[3] > 0.3  # and it has learnt


def test_excluded_actions_are_not_drawn_where_sums_are_rounded():
    """Cumulative sums of some hundred probabilities are not flat where nothing is added."""
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(1000)) * (rng.random(1000) < 0.6)
    log_policy = jnp.log(jnp.asarray(p / p.sum(), jnp.float32))[None]
    drawn = jax.jit(lambda key: draw(log_policy, key, 2**20))
    counts = np.zeros(1000)
    for seed in range(10):
        counts += np.bincount(np.asarray(drawn(jax.random.key(seed)))[0], minlength=1000)
    assert counts[p == 0].sum() == 0
    expected = p[p > 0] / p.sum() * counts.sum()
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < 600 + 6 * np.sqrt(2 * 600)  # chi-square


def test_a_context_with_one_allowed_action_is_left_alone():
    asked = set()

    def first(context, action, opponent):
        asked.update(context.tolist())
        return action < opponent

    reference = np.array([[0.0, 1.0, 0.0], [0.4, 0.3, 0.3]])
    for method in (st.PlugIn(), st.PlugIn(ask="equilibrium"), st.StochasticNashMP()):
        oracle = st.CallableOracle(first, 3, num_contexts=2)
        result = st.train(oracle, 0.1, method=method, num_comparisons=640, key=jax.random.key(0), reference=reference)
        np.testing.assert_allclose(result.policy[0], [0, 1, 0], atol=1e-7)
        assert not result.diverged
    assert asked == {1}


def test_plug_in_goes_on_counting_where_single_answers_are_lost_in_rounding():
    game = st.SampledGame(
        st.BernoulliOracle(np.array([[0.5, 0.9], [0.1, 0.5]], np.float32)),
        st.TabularPolicy(),
        jnp.float32(0.1),
        jnp.full((1, 2), -np.log(2), jnp.float32),
    )
    many = jnp.array([[[0, 0.9], [0.1, 0]]], jnp.float32) * 2**26
    method = st.PlugIn()
    state = method.init(game, jax.random.key(0))._replace(wins=many)
    for i in range(8):
        state, _ = jax.jit(method.step)(game, state, jax.random.key(i), jnp.float32(0))
    assert float(state.recent.sum()) == 8 * 128
    full = state._replace(step=jnp.int32(1023))
    joined, _ = method.step(game, full, jax.random.key(9), jnp.float32(0))
    assert float(joined.recent.sum()) == 0
    assert float(joined.wins.sum() - many.sum()) == pytest.approx(9 * 128, abs=16)


def test_exact_gradients_are_those_of_the_method():
    arguments: dict[str, Any] = {"learning_rate": 0.05, "exact": True}
    common: dict[str, Any] = {"num_comparisons": 64_000, "key": jax.random.key(0), "num_records": 1}
    found = {}
    for mixture in (0.0, 0.5):
        method = st.NashMDPolicyGradient(mixture=mixture, **arguments)
        found[mixture] = st.train(st.BernoulliOracle(GAMES), BETA, method=method, **common).policy
    self_play = st.train(st.BernoulliOracle(GAMES), BETA, method=st.SelfPlayPolicyGradient(**arguments), **common)
    np.testing.assert_allclose(found[0.0], self_play.policy, atol=1e-9)
    assert np.abs(found[0.5] - found[0.0]).max() > 0.01
    # Its fixed point: the best answer to the mixture.
    p = np.asarray(found[0.5])
    q = np.sqrt(p / 6) / np.sqrt(p / 6).sum(-1, keepdims=True)
    answer = np.exp(np.einsum("gij,gj->gi", GAMES.preferences, q) / BETA)
    np.testing.assert_allclose(p, answer / answer.sum(-1, keepdims=True), atol=2e-3)
    for method in (st.OnlineIPO, st.OnlineDPO):
        with pytest.raises(ValueError, match=r"exact must be False for a method .*, got True"):
            method(exact=True)


def test_answers_that_were_given_up_come_back():
    """From a policy that has all but given up the best answers: by exploration only, and to the same equilibrium."""

    @dataclasses.dataclass(frozen=True)
    class Stubborn(st.TabularPolicy):
        def init(self, key, num_contexts, num_actions):
            return jnp.zeros((num_contexts, num_actions)).at[0, 0].set(25.0)

    def learn(exploration):
        method = st.AveragedNashMP.proximal_point(exploration=exploration, learning_rate=0.1, max_gradient_norm=1.0)
        common: dict[str, Any] = {"num_comparisons": 128_000, "key": jax.random.key(0), "num_records": 1}
        return st.train(st.BernoulliOracle(GAMES), BETA, method=method, policy=Stubborn(), **common)

    exploitability = learn(0.0).exploitability
    assert exploitability.mean() > 0.5 * START  # none of 4,000 steps has seen another answer, unless by a rare chance
    found = learn(0.25).exploitability
    assert found.mean() < 0.06 * START
    assert found.max() < 0.1 * START


def test_some_samples_are_the_references_and_own_leaves_them_out():
    reference = jnp.log(jnp.array([[1e-4, 0.9999]]))
    game = st.SampledGame(
        st.BernoulliOracle(np.array([[0.5, 0.6], [0.4, 0.5]])), st.TabularPolicy(), jnp.asarray(BETA), reference
    )
    for make in (st.AveragedNashMP.proximal_point, st.StochasticNashMP):
        method = make(batch_size=64, exploration=0.25)
        learns = jnp.array([[20.0, 0.0]])  # the first action, all but always
        state = method.init(game, jax.random.key(0))._replace(params=learns)
        question = method.ask(game, state, jax.random.key(1))
        assert question.actions.shape == question.opponents.shape == (1, 64)
        own = method.own(question.actions)
        assert own.shape == (1, 48)
        assert (own == 0).all()
        assert question.actions[0, 48:].mean() > 0.9
        for share, count in ((0.001, 1), (0.999, 63)):  # of both kinds there is one at least
            assert method.own(question.actions).shape == (1, 48)
            assert dataclasses.replace(method, exploration=share).own(question.actions).shape == (1, 64 - count)


def test_averages_slow_down_with_the_steps():
    """Else the centre comes to be the policy, and nothing damps its cycles any more."""
    game = st.SampledGame(st.BernoulliOracle(GAMES.preferences[0]), st.TabularPolicy(), jnp.asarray(BETA),
                          jnp.full((1, 6), -np.log(6)))  # fmt: skip
    for schedule, pace in ((linear_decay, 0.25), (no_decay, 1.0)):
        method = st.AveragedNashMP(opponent_rate=0.5, center_rate=0.2, optimizer=optax.sgd(1.0), schedule=schedule)
        state = method.init(game, jax.random.key(0))
        after = method.update(state, jnp.ones((1, 6)), jnp.asarray(0.75))
        moved = jax.tree.map(lambda x: x[0, 0], (after.params, *after.roles))
        np.testing.assert_allclose(moved, [-pace, -pace * 0.5 * pace, -pace * 0.2 * pace])


def test_long_gradients_are_shortened():
    game = st.SampledGame(st.BernoulliOracle(GAMES.preferences[0]), st.TabularPolicy(), jnp.asarray(BETA),
                          jnp.full((1, 6), -np.log(6)))  # fmt: skip
    method = st.SelfPlayPolicyGradient(optimizer=optax.sgd(1.0), max_gradient_norm=2.0)
    state = method.init(game, jax.random.key(0))
    for length, expected in ((100.0, 2.0), (0.5, 0.5)):
        after = method.update(state, jnp.zeros((1, 6)).at[0, 1].set(length), jnp.asarray(0.0))
        np.testing.assert_allclose(after.params[0], [0, -expected, 0, 0, 0, 0], atol=1e-6)


def test_games_do_not_disturb_each_other():
    """A game of a batch is learnt from its own answers, whatever stands beside it."""
    key, few = jax.random.key(5), st.BernoulliOracle(nj.MatrixGame(GAMES.preferences[:3]))
    changed = nj.MatrixGame(GAMES.preferences[:3].at[2].set(GAMES.preferences[7]))
    first = st.train(few, BETA, num_comparisons=6400, key=key)
    second = st.train(st.BernoulliOracle(changed), jnp.array([BETA, BETA, 0.3]), num_comparisons=6400, key=key)
    np.testing.assert_array_equal(first.policy[:2], second.policy[:2])
    assert np.abs(first.policy[2] - second.policy[2]).max() > 1e-3


def test_a_network_learns_contexts():
    """Features that tell the context: each context's own equilibrium is learnt."""
    game = nj.MatrixGame(GAMES.preferences[:4])
    policy = st.MLPPolicy(np.eye(4), 6, hidden=(32,))
    method = st.StochasticNashMP(learning_rate=0.01, batch_size=64)
    result = st.train(
        st.BernoulliOracle(game, contextual=True),
        BETA,
        method=method,
        num_comparisons=256_000,
        key=jax.random.key(0),
        policy=policy,
        num_records=2,
    )
    assert result.policy.shape == (4, 6)
    each = nj.metrics.exploitability(game, result.policy, BETA)
    np.testing.assert_allclose(result.exploitability, each.mean(), atol=1e-9)
    assert each.max() < 0.1 * START
    unseen = dataclasses.replace(policy, features=jnp.asarray(np.eye(4)[::-1].copy()))
    swapped = unseen.logits(result.params, jnp.arange(4))
    np.testing.assert_allclose(swapped[::-1], policy.logits(result.params, jnp.arange(4)), atol=1e-6)


def test_features_may_be_changed_after_a_policy_is_made():
    from flax import linen

    room = np.zeros(4 * 1000 + 16)
    for start in range(8):  # jax shares memory with those that begin at a multiple of 64 bytes
        features = room[start : start + 4000].reshape(4, 1000)
        features[:] = 1.0
        made = [st.FlaxPolicy(features, linen.Dense(6)), st.MLPPolicy(features, 6)]  # pyright: ignore[reportArgumentType]
        features[:] = 2.0
        for policy in made:
            np.testing.assert_array_equal(policy.features, 1.0)


def test_linen_and_nnx_modules_are_policies():
    from flax import linen, nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.layer = nnx.Linear(4, 6, rngs=rngs)

        def __call__(self, x):
            return self.layer(x)

    features = jnp.eye(4)
    oracle = st.BernoulliOracle(nj.MatrixGame(GAMES.preferences[:4]), contextual=True)
    for module in (linen.Dense(6), Net):
        policy = st.FlaxPolicy(features, module)
        params = policy.init(jax.random.key(0), 4, 6)
        kernel = next(x for x in jax.tree.leaves(params) if x.ndim == 2)
        bias = next(x for x in jax.tree.leaves(params) if x.ndim == 1)
        np.testing.assert_allclose(policy.logits(params, jnp.arange(4)), kernel + bias, atol=1e-6)
        result = st.train(oracle, BETA, policy=policy, num_comparisons=32_000, key=jax.random.key(0), num_records=1)
        assert result.exploitability < 0.5 * START


def test_a_method_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class AgainstTheReference(st.PolicyMethod):
        def reference_share(self, beta):
            return 1.0

    method = AgainstTheReference(both_sides=False)
    result = st.train(st.BernoulliOracle(GAMES), BETA, method=method, num_comparisons=64_000, key=jax.random.key(0))
    # The best answer to the reference, by one query.
    payoffs = np.asarray(GAMES.preferences).mean(axis=-1)
    expected = np.exp(payoffs / BETA) / np.exp(payoffs / BETA).sum(-1, keepdims=True)
    np.testing.assert_allclose(result.policy, expected, atol=0.03)

    @dataclasses.dataclass(frozen=True)
    class AsksTooMuch(st.PlugIn):
        def step(self, game, state, key, progress):
            state, asked = super().step(game, state, key, progress)
            return state, jax.tree.map(lambda x: jnp.concatenate([x, x]), asked)

    with pytest.raises(ValueError, match="AsksTooMuch must ask its batch_size of 128 comparisons in a step, got 256"):
        st.train(st.BernoulliOracle(GAMES), BETA, method=AsksTooMuch(), num_comparisons=6400, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: st.StochasticNashMP(inner_steps=0), "inner_steps must be an integer >= 1, got 0"),
        (lambda: st.StochasticNashMP(eta=-1.0), "eta must be .*, got -1"),
        (lambda: st.StochasticNashMP(batch_size=1), "batch_size must be an integer >= 2, got 1"),
        (lambda: st.StochasticNashMP(batch_size=True), "batch_size must be an integer >= 2, got True"),
        (lambda: st.StochasticNashMP(learning_rate=float("nan")), "learning_rate must be a finite number > 0, got nan"),
        (
            lambda: st.StochasticNashMP(samples_per_context=5),
            "must be a divisor of batch_size, 32, got 5",
        ),
        (lambda: st.StochasticNashMP(averaging=-1.0), "averaging must be .*, got -1"),
        (
            lambda: st.StochasticNashMP(optimizer=anything(optax.adam)),
            "optimizer must be an optax gradient transformation, got",
        ),
        (lambda: st.AveragedNashMP(opponent_rate=0.0), "opponent_rate must be .*, got 0"),
        (lambda: st.AveragedNashMP(center_rate=1.5), "center_rate must be .*, got 1.5"),
        (lambda: st.NashMDPolicyGradient(mixture=1.5), "mixture must be .*, got 1.5"),
        (lambda: st.OnlineDPO(scale=0.0), "scale must be .*, got 0"),
        (lambda: st.OnlineIPO(exploration=0.1), "exploration must be 0 for a method that is no policy.*, got 0.1"),
        (lambda: st.StochasticNashMP(exploration=1.0), "exploration must be a finite number >= 0 and < 1, got 1.0"),
        (
            lambda: st.StochasticNashMP(exploration=0.1, baseline=False),
            "baseline must be True with exploration > 0, got False",
        ),
        (
            lambda: st.StochasticNashMP(exploration=0.1, exact=True),
            "exact must be False with exploration > 0, got True",
        ),
        (lambda: st.StochasticNashMP(max_gradient_norm=0.0), "max_gradient_norm must be a finite number > 0, got 0.0"),
        (lambda: st.PlugIn(ask=anything("all")), "ask must be one of .*, got 'all'"),
        (lambda: st.PlugIn(prior=-1.0), "prior must be .*, got -1"),
        (lambda: st.ClosedFormNashMP(batch_size=3), "batch_size must be an even number, got 3"),
        (lambda: st.ClosedFormNashMP(uniform_share=0.0), "uniform_share must be .*, got 0"),
        (
            lambda: st.ClosedFormNashMP(schedule=anything(0.5)),
            "schedule must be a function .*, got 0.5",
        ),
        (
            lambda: st.StochasticNashMP(schedule=anything(0.5)),
            "schedule must be a function .*, got 0.5",
        ),
        (lambda: st.MLPPolicy(np.zeros((3, 2)), 4, hidden=(0,)), "hidden must be an integer >= 1, got 0"),
        (lambda: st.FlaxPolicy(jnp.zeros((3, 2)), "net"), "module must be a flax.linen module or .*, got 'net'"),
        (lambda: st.MLPPolicy(np.array([[0.0, np.nan]]), 5), r"features\[0, 1\] must be a finite number, got nan"),
        (lambda: st.MLPPolicy(np.zeros(3), 4), r"features must be an array .*, got shape \[3\]"),
    ],
)
def test_bad_settings_are_refused(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()

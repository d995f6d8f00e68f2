"""Training: arguments, records, early stops, and runs that are killed and go on.

One file, though long: most of its tests share trained runs and compiled programs.
"""

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj

pytest.importorskip("orbax.checkpoint", reason="needs the extra `train`")

import optax

from nashjax import stochastic as st
from nashjax.stochastic.checkpoint import describe

GAMES = nj.games.random_game(jax.random.key(11), 5, (2, 3), "gaussian", scale=2.0)
ORACLE = st.BernoulliOracle(GAMES)
BETA = 0.1
KEY = jax.random.key(0)


def test_shapes_follow_the_oracle():
    result = st.train(ORACLE, BETA, num_comparisons=1000, key=KEY, num_records=4)
    assert result.policy.shape == (2, 3, 5)
    assert result.comparisons.shape == (2, 3)
    assert (result.comparisons == 1000 // 32 * 32).all()
    assert result.exploitability.shape == (2, 3)
    assert result.params.shape == (2, 3, 1, 5)
    history = result.history
    assert history.comparisons.tolist() == [7 * 32, 15 * 32, 23 * 32, 31 * 32]
    for name in ("exploitability", "win_rate", "win_rate_low", "win_rate_high", "kl"):
        assert getattr(history, name).shape == (4, 2, 3), name
    assert history.reference_win_rate is None
    np.testing.assert_array_equal(history.exploitability[-1], result.exploitability)
    expected = (result.policy * (result.log_policy + np.log(5))).sum(-1)
    np.testing.assert_allclose(history.kl[-1], expected, atol=1e-9)


def test_betas_and_references_are_each_games_own():
    betas = jnp.array([0.05, 0.2, 0.4])
    reference = np.random.default_rng(0).dirichlet(np.ones(5), (2, 1))
    result = st.train(ORACLE, betas, num_comparisons=64_000, key=KEY, reference=reference, num_records=1)
    judged = nj.metrics.exploitability(GAMES, result.policy, betas, reference=reference)
    np.testing.assert_allclose(result.exploitability, judged, atol=1e-9)
    start = nj.metrics.exploitability(GAMES, np.broadcast_to(reference, (2, 3, 5)), betas, reference=reference)
    assert (judged < 0.1 * start).all()


def test_the_same_key_gives_the_same_result_and_another_one_another():
    results = [st.train(ORACLE, BETA, num_comparisons=640, key=jax.random.key(k)).policy for k in (1, 1, 2)]
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-4


def test_records_do_not_change_what_is_learnt():
    one, many = (st.train(ORACLE, BETA, num_comparisons=1600, key=KEY, num_records=num).policy for num in (1, 7))
    np.testing.assert_allclose(one, many, atol=1e-12)


def test_win_rates_cover_the_truth_and_are_paid_for():
    """Of 120 intervals of 95 %, at least 110 hold the exact win rate of the policy over the reference."""
    game = nj.MatrixGame(jnp.broadcast_to(GAMES.preferences[0, 0], (120, 5, 5)))
    result = st.train(
        st.BernoulliOracle(game),
        BETA,
        num_comparisons=3200,
        key=KEY,
        num_records=2,
        evaluation_comparisons=200,
    )
    assert (result.comparisons == 2 * 200 + (3200 - 400) // 32 * 32).all()
    truth = np.einsum("gi,gij,j->g", result.policy, game.preferences, np.full(5, 0.2))
    low, high = result.history.reference_win_rate_low[-1], result.history.reference_win_rate_high[-1]
    assert ((low <= truth) & (truth <= high)).sum() >= 110
    # One comparison in five is of an action with itself, and 1/2.
    width = 2 * 1.96 * np.sqrt((truth - 0.05 - truth**2) / 200)
    assert np.abs(np.mean((high - low) / width) - 1) < 0.03
    assert (result.history.win_rate_low < result.history.win_rate).all()
    assert (result.history.win_rate < result.history.win_rate_high).all()


def test_early_stops():
    result = st.train(ORACLE, BETA, num_comparisons=320_000, key=KEY, num_records=100, tol=0.01)
    assert (result.exploitability <= 0.01).all()
    assert not (result.history.exploitability[:-1] <= 0.01).all(axis=(1, 2)).any()
    assert result.comparisons.max() < 320_000
    seen = []

    def third(record: st.Record) -> bool:
        seen.append(record.comparisons)
        return len(seen) == 3

    result = st.train(ORACLE, BETA, num_comparisons=3200, key=KEY, num_records=10, on_record=third)
    assert seen == result.history.comparisons.tolist() == [320, 640, 960]


def test_without_a_matrix_there_are_win_rates_only(capsys):
    oracle = st.CallableOracle(lambda c, a, o: np.where(a == o, 0.5, a > o), 3, batch_shape=(2,))
    result = st.train(oracle, BETA, num_comparisons=640, key=KEY, num_records=2, progress=True)
    assert result.exploitability is None
    assert result.history.exploitability is None
    assert result.policy.shape == (2, 3)
    assert result.history.win_rate.shape == (2, 2)
    assert 640 < oracle.comparisons < 2 * 640  # less what would have compared an action with itself
    assert "640 comparisons" in capsys.readouterr().out


def test_a_run_that_diverged_says_so():
    method = st.SelfPlayPolicyGradient(learning_rate=1e38, batch_size=4)
    game = nj.MatrixGame(GAMES.preferences.astype(jnp.float32))
    result = st.train(st.BernoulliOracle(game), BETA, method=method, num_comparisons=400, key=KEY)
    finite = np.isfinite(np.asarray(result.policy)).all(-1)
    np.testing.assert_array_equal(result.diverged, ~finite)
    assert result.diverged.any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"oracle": GAMES},
            "oracle must be an instance .*, got a MatrixGame, which lacks compare, num_contexts",
        ),
        ({"oracle": st.BernoulliOracle}, "oracle must be an instance such as .*, got the class BernoulliOracle"),
        ({"beta": 0.0}, "beta must be a finite number > 0, got 0.0"),
        ({"beta": [0.1, np.nan, 0.1]}, r"beta\[1\] must be .*, got nan"),
        ({"beta": np.ones(4)}, r"beta must be an array that broadcasts to \[2, 3\], got shape \[4\]"),
        ({"beta": "small"}, "beta.*'small'"),
        ({"method": st.PlugIn}, "method must be an instance such as .*, got the class PlugIn"),
        ({"method": nj.NashMP()}, "method must be .*, got a NashMP, which lacks batch_size, log_policy"),
        ({"policy": "mlp"}, "policy must be .*, got a str, which lacks init, logits"),
        (
            {"num_comparisons": 31},
            r"num_comparisons must be an integer from 32 \(the method's batch_size, 32, and 0 to evaluate\) .*, got 31",
        ),
        ({"num_comparisons": 1e5}, "num_comparisons must be an integer >= 1, got 100000.0"),
        ({"num_records": 0}, "num_records must be an integer >= 1, got 0"),
        ({"evaluation_comparisons": -1}, "evaluation_comparisons must be an integer >= 0, got -1"),
        ({"tol": -1.0}, "tol must be a finite number >= 0, got -1.0"),
        (
            {"policy": st.MLPPolicy(np.zeros((1, 2)), 4)},
            r"module must be a module whose logits of one context have shape \[1, 5\], .*, got shape \[1, 4\]",
        ),
        ({"beta": 1e400}, "beta must be .*, got inf"),
        ({"key": jax.random.split(KEY)}, "key must be one jax random key"),
        ({"key": jnp.zeros(2)}, "key must be one jax random key"),
        ({"key": 0}, "key must be one jax random key.*, got 0"),
        ({"reference": np.ones(5)}, "reference must be probabilities that sum to 1 .*, got the sum 5"),
        ({"reference": np.full(4, 0.25)}, r"reference.* shape \[4\]"),
        (
            {"reference": np.full((3, 2, 5), 0.2)},
            r"reference must be an array that .*, got shape \[3, 2, 5\]",
        ),
        ({"policy": st.MLPPolicy(np.zeros((7, 2)), 5)}, r"features must be an array \[1, \.\.\.\], got shape \[7, 2\]"),
    ],
)
def test_bad_arguments_are_refused(arguments, said):
    good = {"oracle": ORACLE, "beta": BETA, "num_comparisons": 640, "key": KEY}
    with pytest.raises((TypeError, ValueError), match=said):
        st.train(**(good | arguments))


def test_a_tolerance_needs_a_matrix():
    oracle = st.CallableOracle(lambda c, a, o: a * 0.0, 3)
    with pytest.raises(ValueError, match=r"tol must be None for a CallableOracle, which knows no matrix, got 0.1"):
        st.train(oracle, BETA, num_comparisons=640, key=KEY, tol=0.1)


METHODS = {
    "loops": st.StochasticNashMP(inner_steps=7),
    "averages": st.AveragedNashMP(),
    "plug-in": st.PlugIn(batch_size=32),
    "closed form": st.ClosedFormNashMP(batch_size=32),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_stopped_goes_on_bit_by_bit(name, tmp_path):
    arguments: dict[str, Any] = {"num_comparisons": 3200, "key": KEY, "num_records": 5, "method": METHODS[name]}
    arguments["evaluation_comparisons"] = 10
    whole = st.train(ORACLE, BETA, **arguments)
    records, part = [], whole
    for _ in range(5):  # one record at a time, each time from the folder
        part = st.train(ORACLE, BETA, **arguments, checkpoint=tmp_path, on_record=lambda r: records.append(r) or True)
    assert [record.comparisons for record in records] == whole.history.comparisons.tolist()
    again = st.train(ORACLE, BETA, **arguments, checkpoint=tmp_path)  # nothing is left to do
    for result in (part, again):
        jax.tree.map(np.testing.assert_array_equal, result.state, whole.state)
        np.testing.assert_array_equal(result.log_policy, whole.log_policy)
        for found, expected in zip(result.history, whole.history, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_keys_in_the_state_of_an_optimizer_are_saved(tmp_path):
    noisy = st.StochasticNashMP(optimizer=optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(1.0)))
    arguments: dict[str, Any] = {"num_comparisons": 640, "key": KEY, "num_records": 2, "method": noisy}
    part = whole = st.train(ORACLE, BETA, **arguments)
    for _ in range(2):
        part = st.train(ORACLE, BETA, **arguments, checkpoint=tmp_path, on_record=lambda record: True)
    np.testing.assert_array_equal(part.policy, whole.policy)


def test_a_damaged_checkpoint_is_named(tmp_path):
    arguments: dict[str, Any] = {"num_comparisons": 640, "key": KEY, "num_records": 3, "checkpoint": tmp_path}
    whole = st.train(ORACLE, BETA, **arguments)
    (tmp_path / "3" / "settings" / "metadata").write_text("{")
    with pytest.raises(
        st.CheckpointError, match=r"3 must be undamaged, got the error .* Remove that folder to continue"
    ):
        st.train(ORACLE, BETA, **arguments)
    shutil.rmtree(tmp_path / "3")
    np.testing.assert_array_equal(st.train(ORACLE, BETA, **arguments).policy, whole.policy)


def test_descriptions_tell_settings_apart():
    class A:
        def __init__(self, x):
            self.x = x

    def scaled(x):
        return lambda progress: x * progress

    schedules = [optax.warmup_cosine_decay_schedule(0.0, peak, 10, 100) for peak in (0.1, 0.2)]
    pairs = [
        (scaled(1.0), scaled(2.0)),
        (jax.jit(scaled(1.0)), jax.jit(scaled(2.0))),
        (lambda x: jnp.sqrt(x), lambda x: jnp.square(x)),
        (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x]),
        (A(1), A(2)),
        (A, int),
        (A(np.float32(1)), A(np.float32(2))),
        *[tuple(optax.chain(optax.clip(1.0), optax.adam(x)) for x in schedules)],
        tuple(optax.MultiSteps(optax.adam(x), 2).gradient_transformation() for x in (0.1, 0.2)),
        (np.arange(100.0), np.arange(100.0) + 1),
    ]
    for one, other in pairs:
        assert describe(one) == describe(one)
        assert describe(one) != describe(other)
    recursive: list[Any] = []
    recursive.append(recursive)
    assert describe(recursive) == ["see 0"]
    assert describe(scaled(float("nan"))) == describe(scaled(float("nan")))


@dataclasses.dataclass(frozen=True)
class _Pair:
    first: Any
    second: Any


def test_descriptions_of_things_side_by_side_do_not_run_into_each_other():
    """What is made for a description and gone again lies where the next is made."""
    one, other = nj.NashMP(), nj.NashMP(0.1)
    expected = [describe(one), describe(other)]
    assert expected[0] != expected[1]
    for _ in range(20):
        assert describe([one, other]) == expected
        found = describe(_Pair(_Pair(one, other), functools.partial(max, one, other)))
        assert [found["first"]["first"], found["first"]["second"]] == expected


def test_integers_of_numpy_are_integers(tmp_path):
    options: dict[str, Any] = {"num_comparisons": np.int64(640), "num_records": np.int32(2), "key": KEY}
    result = st.train(ORACLE, BETA, checkpoint=tmp_path, **options)
    again = st.train(ORACLE, BETA, num_comparisons=640, num_records=2, key=KEY)
    np.testing.assert_array_equal(result.policy, again.policy)


def test_an_object_with_a_game_is_not_taken_for_many_games():
    """Its matrix is not sliced, so that nothing is said of exploitabilities."""

    class Judge:
        num_actions, num_contexts, batch_shape = 5, 1, (3,)
        game = nj.MatrixGame(GAMES.preferences[0])

        def compare(self, key, context, action, opponent):
            return (action > opponent) * 1.0

    result = st.train(Judge(), BETA, num_comparisons=640, key=KEY)
    assert result.exploitability is None
    with pytest.raises(ValueError, match="for a Judge, which knows no matrix"):
        st.train(Judge(), BETA, num_comparisons=640, key=KEY, tol=0.1)


def test_a_small_budget_is_spent():
    result = st.train(ORACLE, BETA, num_comparisons=232, key=KEY, evaluation_comparisons=10)
    assert (result.comparisons > 232 - 42).all()
    assert (result.comparisons <= 232).all()
    assert len(result.history.comparisons) == 5


def test_training_cannot_be_traced():
    with pytest.raises(ValueError, match="train must be called outside of jit"):
        jax.jit(lambda beta: st.train(ORACLE, beta, num_comparisons=640, key=KEY).policy)(0.1)


@pytest.mark.parametrize(
    "other",
    [
        {"beta": 0.2},
        {"num_comparisons": 6400},
        {"key": jax.random.key(9)},
        {"method": st.StochasticNashMP(inner_steps=8)},
        {"method": st.StochasticNashMP(optimizer=optax.adam(0.031))},
        {"method": st.StochasticNashMP(optimizer=optax.adam(0.03, b1=0.8))},
        {"method": st.StochasticNashMP(schedule=lambda progress: 1 - progress / 2)},
        {"method": st.AveragedNashMP()},
        {"oracle": st.BernoulliOracle(nj.MatrixGame(GAMES.preferences[:, ::-1]))},
        {"reference": np.array([0.1, 0.1, 0.2, 0.3, 0.3])},
    ],
    ids=["beta", "comparisons", "key", "inner steps", "rate", "momentum", "schedule", "class", "game", "reference"],
)
def test_the_folder_of_another_run_is_refused(other, finished):
    with pytest.raises(st.CheckpointError, match=r"^[a-z_.]+ of the run in .* must be .* as in this run, got "):
        st.train(**(finished | other))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Any]:
    """The arguments of a run that has ended, with another object for the same method."""
    arguments: dict[str, Any] = {"oracle": ORACLE, "beta": BETA, "num_comparisons": 640, "key": KEY, "num_records": 2}
    arguments["checkpoint"] = tmp_path_factory.mktemp("finished")
    st.train(**arguments, method=st.StochasticNashMP(optimizer=optax.adam(0.03)))
    return arguments | {"method": st.StochasticNashMP(optimizer=optax.adam(0.03))}


def test_the_folder_of_the_same_run_is_gone_on_with(finished):
    files = sorted(path for path in finished["checkpoint"].rglob("*") if path.is_file())
    before = [path.stat().st_mtime_ns for path in files]
    again = st.train(**finished)
    assert (again.comparisons > 600).all()
    assert [path.stat().st_mtime_ns for path in files] == before  # nothing was left to do


def test_what_the_checkpoints_of_another_run_differ_in_is_told_in_numbers(tmp_path):
    arguments: dict[str, Any] = {"num_comparisons": 640, "key": KEY, "checkpoint": tmp_path / "run", "num_records": 2}
    st.train(ORACLE, 0.1, **arguments)
    with pytest.raises(st.CheckpointError, match=r"beta of the run in .* must be \[0\.2, .* got \[0\.1, "):
        st.train(ORACLE, 0.2, **arguments)
    with pytest.raises(
        st.CheckpointError, match=r"method\.inner_steps of the run in .* must be 25 as in this run, got 24"
    ):
        st.train(ORACLE, 0.1, method=st.StochasticNashMP(inner_steps=25), **arguments)
    (tmp_path / "file").write_text("")
    with pytest.raises(st.CheckpointError, match=r"folder of checkpoints must be a folder, got the file .*file\."):
        st.train(ORACLE, 0.1, **(arguments | {"checkpoint": tmp_path / "file"}))


SCRIPT = """
import sys, jax, numpy as np, nashjax as nj
from nashjax import stochastic as st
games = nj.games.random_game(jax.random.key(11), 5, (32,), "gaussian", scale=2.0)
result = st.train(
    st.BernoulliOracle(games), 0.1, num_comparisons=128_000, key=jax.random.key(0), num_records=40,
    checkpoint=sys.argv[1], on_record=lambda record: print(record.comparisons, flush=True),
)
arrays = [result.log_policy, *jax.tree.leaves(result.state), *[x for x in result.history if x is not None]]
np.savez(sys.argv[2], *arrays)
"""


def test_a_run_that_is_killed_thrice_ends_as_one_that_is_not(tmp_path: Path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")

    def start(folder: str, out: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(tmp_path / folder), str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)

    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)  # shown where the test fails
    rng, killed = np.random.default_rng(seed), 0
    for _ in range(3):
        process = start("killed", "killed.npz")
        assert process.stdout is not None
        for _ in range(int(rng.integers(1, 6))):  # some records, then some time into the next or its checkpoint
            process.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.3)))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        process.stdout.close()
    assert killed == 3
    for folder, out in (("killed", "killed.npz"), ("whole", "whole.npz")):
        process = start(folder, out)
        printed = process.communicate()[0].split()
        assert process.returncode == 0
        assert int(printed[-1]) == 128_000
        assert (len(printed) < 40) == (folder == "killed")
    with np.load(tmp_path / "killed.npz") as killed_run, np.load(tmp_path / "whole.npz") as whole:
        assert killed_run.files == whole.files
        for name in whole.files:
            np.testing.assert_array_equal(killed_run[name], whole[name], err_msg=name)

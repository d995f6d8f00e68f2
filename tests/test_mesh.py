"""Games on many devices: simulated ones, in processes of their own."""

from scripts import REFUSED, run_script

DEVICES = """
    import os
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    import nashjax as nj
    from nashjax._execution import mesh as mesh_execution
    from nashjax.problem import Problem
    jax.config.update("jax_enable_x64", True)
    assert jax.device_count() == 8

    def collectives(game, beta, algorithm=None):
        problem = Problem.build(game, beta, in_place=True)
        where = mesh_execution.layout(problem)
        stages = nj.Auto().stages if algorithm is None else (nj.Stage("", nj.When(), algorithm),)
        text = ""
        for stage in stages:
            arguments = (stage, mesh_execution.place(problem, where), None, 1000)
            text += mesh_execution.lower_stage(*arguments, where, None).compile().as_text()
        names = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
        return {name: text.count(f" {name}(") + text.count(f" {name}-start(") for name in names}

    first_order = nj.AdaptiveNashMP()  # quick to compile

    def close(found, expected, tolerance=1e-8):
        assert (found.status == expected.status).all()
        assert np.abs(found.policy - np.asarray(expected.policy)).max() < tolerance
        assert np.isfinite(found.exploitability).all()

    def same_spread(game, beta, whole_game, whole_beta):
        found = nj.solve(game, beta, tol=1e-12, algorithm=first_order)
        close(found, nj.solve(whole_game, whole_beta, tol=1e-12, algorithm=first_order), 1e-5)
"""


def on_devices(script: str) -> None:
    assert run_script(DEVICES + REFUSED + script + "\n    print('done')", 300) == "done\n"


def test_a_batch_is_solved_where_it_lies_without_communication():
    on_devices("""
    games = nj.games.random_game(jax.random.key(0), 6, (32,))
    beta = jnp.geomspace(1e-4, 1, 32).at[3].set(0)
    spread_games = nj.distributed.shard(games)
    found = nj.solve(spread_games, beta, tol=1e-12)
    close(found, nj.solve(games, beta, tol=1e-12), 1e-5)
    mesh = spread_games.preferences.sharding.mesh
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, P("games")), leaf.ndim), leaf.sharding
    assert not any(collectives(spread_games, beta).values())
    """)


def test_what_is_shared_is_not_copied_and_what_is_spread_decides():
    """One game with spread betas; a grid of games and betas over a mesh of two axes; games without a matrix."""
    on_devices("""
    game = nj.games.random_game(jax.random.key(0), 5)
    betas = jnp.geomspace(0.01, 1, 16)
    same_spread(game, nj.distributed.shard(betas), game, betas)

    mesh = jax.make_mesh((4, 2), ("a", "b"))
    games = nj.games.random_game(jax.random.key(1), 5, (8,))
    grid = jnp.array([0.05, 0.5])[:, None]
    reference = jax.random.dirichlet(jax.random.key(2), jnp.ones(5), (2, 1))
    found = nj.solve(
        jax.device_put(games, NamedSharding(mesh, P("a"))), jax.device_put(grid, NamedSharding(mesh, P("b"))),
        reference=jax.device_put(reference, jax.devices()[0]), tol=1e-12, algorithm=first_order,
    )
    assert found.status.sharding.spec == P("b", "a"), found.status.sharding
    close(found, nj.solve(games, grid, reference=reference, tol=1e-12, algorithm=first_order), 1e-5)

    x = jax.random.normal(jax.random.key(3), (8, 30, 4))
    skew = jnp.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 2], [0, 0, -2, 0]])[None]
    embedded = nj.games.EmbeddingGame(x, skew)
    same_spread(nj.distributed.shard(embedded), 0.1, embedded, 0.1)
    """)


def test_the_rows_of_one_game_over_many_devices():
    on_devices("""
    game = nj.games.random_game(jax.random.key(0), 64)
    rows = nj.distributed.shard_rows(game)
    assert rows.preferences.addressable_shards[0].data.shape == (8, 64)
    found = nj.solve(rows, 0.05, tol=1e-12, algorithm=first_order)
    close(found, nj.solve(game, 0.05, tol=1e-12, algorithm=first_order), 1e-5)
    # One exchange a query: the first, the two of a step, that of the last judgement. The matrix is transposed once, and
    # validity is known to all.
    counts = collectives(rows, 0.05, first_order)
    assert counts["all-gather"] == 4 and counts["all-to-all"] <= 1 and counts["all-reduce"] <= 1, counts
    # With memory a step asks once; the fits are repeated on every device.
    with_memory = nj.MemoryNashMP(memory=4)
    close(nj.solve(rows, 0.05, tol=1e-12, algorithm=with_memory), found, 1e-5)
    counts = collectives(rows, 0.05, with_memory)
    assert counts["all-gather"] == 3 and counts["all-to-all"] <= 1 and counts["all-reduce"] <= 1, counts

    mesh = jax.make_mesh((2, 4), ("games", "rows"))
    games = nj.games.random_game(jax.random.key(1), 16, (4,))
    both = jax.device_put(games, NamedSharding(mesh, P("games", "rows")))
    same_spread(both, 0.05, games, 0.05)
    """)


def test_inside_of_shard_map_it_has_derivatives():
    on_devices("""
    mesh = jax.make_mesh((8,), ("games",), axis_types=(jax.sharding.AxisType.Auto,))
    games = nj.games.random_game(jax.random.key(0), 5, (16,)).preferences
    value = jnp.arange(5.0)

    def own(P):
        return nj.solve(P, 0.1, tol=1e-14).policy @ value

    mapped = jax.shard_map(own, mesh=mesh, in_specs=P("games"), out_specs=P("games"))
    found = jax.jit(jax.grad(lambda x: mapped(x).sum()))(nj.distributed.shard(games, mesh))
    expected = jax.grad(lambda x: own(x).sum())(games)
    assert np.abs(found - expected).max() < 1e-8
    """)


def test_paths_are_followed_where_the_games_lie():
    on_devices("""
    games = nj.games.random_game(jax.random.key(0), 5, (16,))
    betas = jnp.array([0.2, 0.1])
    expected = nj.solve_path(games, betas, tol=1e-12, algorithm=first_order)
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("games",), axis_types=(kind,))
        spread_games = jax.device_put(games, NamedSharding(mesh, P("games")))
        found = nj.solve_path(spread_games, betas, tol=1e-12, algorithm=first_order)
        assert found.status.sharding.is_equivalent_to(NamedSharding(mesh, P(None, "games")), 2)
        close(found, expected)
    big = nj.games.random_game(jax.random.key(0), 16)
    rows = nj.solve_path(nj.distributed.shard_rows(big), betas, tol=1e-12, algorithm=first_order)
    close(rows, nj.solve_path(big, betas, tol=1e-12, algorithm=first_order))
    try:
        nj.solve_path(big, nj.distributed.shard(jnp.linspace(1, 0.1, 8)))
    except ValueError as error:
        assert "betas must be whole on every device, got a path cut" in str(error), error
    else:
        raise AssertionError
    """)


def test_games_without_a_matrix_inside_of_shard_map():
    on_devices("""
    mesh = nj.distributed.games_mesh()
    x = jax.random.normal(jax.random.key(3), (8, 9, 4)) / 2
    skew = jnp.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 2], [0, 0, -2, 0]])[None]

    def own(x, skew):
        return nj.solve(nj.games.EmbeddingGame(x, skew), 0.1, tol=1e-14, algorithm=first_order).policy[:, 0]

    def mapped(check):
        return jax.shard_map(own, mesh=mesh, in_specs=(P("games"), P()), out_specs=P("games"), check_vma=check)

    assert np.abs(jax.jit(mapped(True))(x, skew) - own(x, skew)).max() < 1e-6
    found = jax.jit(jax.grad(lambda *a: mapped(False)(*a).sum(), argnums=(0, 1)))(x, skew)
    expected = jax.grad(lambda *a: own(*a).sum(), argnums=(0, 1))(x, skew)
    assert all(np.abs(a - b).max() < 1e-8 for a, b in zip(found, expected))
    """)


def test_faults_are_named():
    on_devices("""
    games = nj.games.random_game(jax.random.key(0), 16, (8,))
    bad = np.array(games.preferences)
    bad[5, 1, 2] = np.nan
    refused(lambda: nj.solve(nj.distributed.shard(bad), 0.1), "game.preferences[5, 1, 2] must be a finite probability")
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    rows = jax.device_put(bad, NamedSharding(mesh, P("a", "b")))
    refused(lambda: nj.solve(rows, 0.1), "game.preferences[5, 1, 2] must be a finite probability")
    unchecked = nj.solve(nj.distributed.shard(bad), 0.1, validate=False, algorithm=first_order)
    assert unchecked.status.tolist() == [0] * 5 + [int(nj.Status.INVALID)] + [0] * 2
    loses = nj.NashMP(eta=1e308)  # that a method returns no policy makes a game no worse
    for placed in (nj.distributed.shard(games), jax.device_put(games, NamedSharding(mesh, P("a", "b")))):
        lost = nj.solve(placed, 0.1, algorithm=loses)
        assert (lost.status == nj.solve(games, 0.1, algorithm=loses).status).all(), lost.status
        assert (lost.status == nj.Status.INVALID).all(), lost.status
    beta = nj.distributed.shard(jnp.array([0.1] * 7 + [-1.0]))
    refused(lambda: nj.solve(games, beta), "beta[7]", "-1.0")
    columns = jax.device_put(games, NamedSharding(mesh, P(None, None, "b")))
    refused(lambda: nj.solve(columns, 0.1), "game must be cut over devices along batch axes or")
    other = jax.device_put(jnp.ones(8), NamedSharding(jax.make_mesh((8,), ("z",)), P("z")))
    spread_games = nj.distributed.shard(games)
    refused(lambda: nj.solve(spread_games, other), "beta must be on the mesh ", " of the other arguments, got the mesh")
    refused(lambda: nj.distributed.shard(bad[:6]), "games must be a multiple of 8 games, for 8 devices, got 6")
    refused(lambda: nj.distributed.shard(games, mesh), "mesh must be a mesh of one axis", "got the axes")
    refused(lambda: nj.distributed.shard(jnp.float32(0.1)), "arrays that lead with a batch axis, got a number")
    refused(lambda: nj.distributed.shard_rows(bad[0][:12, :12]), "game must be a multiple of 8 rows", "got 12")
    refused(lambda: nj.distributed.shard_rows(bad[0][:8]), "game must be a square matrix", "got shape [8, 16]")
    refused(lambda: nj.distributed.shard_rows(bad), "game must be one matrix [n, n], got shape [8, 16, 16]")
    game = nj.MatrixGame.from_payoffs(np.zeros((8, 8)), bound=3.0)
    assert nj.distributed.shard_rows(game).payoff_scale == 6
    assert nj.distributed.shard_rows(np.full((8, 8), 0.5).tolist()).num_actions == 8
    shared = nj.distributed.shard_local(nj.games.EmbeddingGame(jnp.ones((8, 3, 2)), jnp.zeros((1, 2, 2))))
    assert shared.batch_shape == (8,) and shared.skew.sharding.is_fully_replicated
    """)


def test_zero_sum_games_are_solved_where_they_lie():
    on_devices("""
    payoffs = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 5)) * 10)
    spread = jax.device_put(payoffs, NamedSharding(jax.make_mesh((8,), ("games",)), P("games")))
    for beta in (0.3, (0.3, 0.1)):
        found, whole = (nj.solve(nj.ZeroSumGame(x), beta, tol=1e-12) for x in (spread, payoffs))
        assert np.asarray(found.converged).all()
        assert np.abs(found.value - np.asarray(whole.value)).max() < 1e-9
        assert found.value.sharding.is_equivalent_to(spread.sharding, 1)
    """)

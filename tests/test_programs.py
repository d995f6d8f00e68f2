"""The compiled programs: how many there are, what they cost the process, and that others' devices can have them."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import run_script

import nashjax as nj
from nashjax._execution import inline, programs
from nashjax._math import xla
from nashjax.problem import Problem
from nashjax.solution import Progress


def test_the_least_recently_used_programs_are_dropped_with_one_warning(monkeypatch):
    kept = programs.Programs(most_maps=100)
    maps = [0]
    monkeypatch.setattr(programs, "count_maps", lambda: maps[0])
    made = {name: kept.get(name, lambda: jax.jit(lambda x: x + 1)) for name in "abcd"}
    assert kept.get("a", lambda: pytest.fail("is there already")) is made["a"]
    made["b"](1.0)
    maps[0] = 100
    with pytest.warns(RuntimeWarning, match="dropped its 2 least recently used compiled programs: the process has 100"):
        kept.get("e", lambda: jax.jit(lambda x: x))
    assert made["b"]._cache_size() == 0
    assert len(kept) == 3
    assert kept.get("a", lambda: pytest.fail("was used after b and c")) is made["a"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.get("f", lambda: jax.jit(lambda x: x))
    kept.clear()
    assert len(kept) == 0


@pytest.mark.skipif(not programs.count_maps(), reason="needs an operating system that tells its memory maps")
def test_dropped_programs_give_their_memory_maps_back_and_one_game_needs_few():
    script = """
        import jax, numpy as np, nashjax as nj
        from nashjax._execution.programs import PROGRAMS, count_maps
        P = np.asarray(nj.games.random_game(jax.random.key(0), 10).preferences)
        before = count_maps()
        first = nj.solve(P, 0.1)
        added = count_maps() - before
        PROGRAMS.clear()
        after = count_maps() - before
        again = nj.solve(P, 0.1)
        print(added < 300, after < added / 2, bool((again.policy == first.policy).all()))
    """
    assert run_script(script, 120) == "True True True\n"


def test_new_shapes_compile_no_trivial_programs():
    script = """
        import jax, numpy as np, nashjax as nj
        compiled = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None)
        P = np.asarray(nj.games.random_game(jax.random.key(0), 5, (400,)).preferences)
        def solve(count):
            before = len(compiled)
            nj.solve(P[:count], 0.1, algorithm=nj.NashMP())
            return len(compiled) - before
        solve(400), solve(300)
        print([solve(count) for count in (399, 301, 350, 380)])
    """
    assert run_script(script, 120) == "[0, 0, 0, 0]\n"


def test_options_that_jaxlib_refuses_are_dropped():
    assert xla.accepted(("xla_no_such_option", 1)) == {}
    known = xla.accepted(xla.WIDE, ("xla_no_such_option", True))
    assert set(known) <= {xla.WIDE[0]}
    assert nj.solve(np.full((2, 2), 0.5), 0.1).converged


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("stage", [*nj.Auto().stages, *nj.Auto().without_matrix], ids=lambda stage: stage.name)
def test_stages_lower_for_accelerators_without_one(stage, platform):
    problem = Problem.build(jnp.zeros((8, 20, 20), jnp.float32) + 0.5, 0.1)

    def run(problem: Problem, progress: Progress) -> Progress:
        return inline.run_on_some(stage, problem.aligned(), progress, jnp.int32(100), None)

    def start(problem: Problem) -> Progress:
        return inline.run_on_all(stage, problem.aligned(), jnp.int32(100), None)

    fields = problem._replace(classes=type(problem.classes)())
    leaves, structure = jax.tree.flatten(fields)
    shapes = jax.eval_shape(start, fields)
    exported = jax.export.export(
        jax.jit(lambda leaves, *progress: run(jax.tree.unflatten(structure, leaves), Progress(*progress))),
        platforms=[platform],
    )(leaves, *shapes)
    assert exported.platforms == (platform,)
    assert "while" in exported.mlir_module()

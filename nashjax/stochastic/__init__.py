"""Equilibria learnt from sampled comparisons, where nobody hands over the preference matrix (spec 4).

`train` is the front door: an oracle answers comparisons, a method learns a policy from them. Needs the extra `train`.
"""

try:
    import chex as _chex  # noqa: F401
    import optax as _optax  # noqa: F401
except ImportError as error:
    raise ImportError(f'nashjax.stochastic needs {error.name}: python -m pip install "nashjax[train]"') from error

from nashjax.stochastic.checkpoint import CheckpointError
from nashjax.stochastic.estimators import Comparisons, Sample, dpo_loss, ipo_loss, policy_gradient_loss
from nashjax.stochastic.methods import (
    AveragedNashMP,
    ClosedFormNashMP,
    Method,
    MMDPolicyGradient,
    NashMDPolicyGradient,
    OnlineDPO,
    OnlineIPO,
    PlugIn,
    PolicyMethod,
    Roles,
    SelfPlayPolicyGradient,
    StochasticNashMP,
    StochasticNashProx,
    linear_decay,
    no_decay,
)
from nashjax.stochastic.oracles import (
    BernoulliOracle,
    CallableOracle,
    OracleError,
    PreferenceOracle,
    ProbabilityOracle,
)
from nashjax.stochastic.policies import FlaxPolicy, MLPPolicy, Policy, TabularPolicy
from nashjax.stochastic.records import Record
from nashjax.stochastic.sampled_game import Asked, SampledGame
from nashjax.stochastic.train import TrainResult, train

__all__ = [
    "Asked",
    "AveragedNashMP",
    "BernoulliOracle",
    "CallableOracle",
    "CheckpointError",
    "ClosedFormNashMP",
    "Comparisons",
    "FlaxPolicy",
    "MLPPolicy",
    "MMDPolicyGradient",
    "Method",
    "NashMDPolicyGradient",
    "OnlineDPO",
    "OnlineIPO",
    "OracleError",
    "PlugIn",
    "Policy",
    "PolicyMethod",
    "PreferenceOracle",
    "ProbabilityOracle",
    "Record",
    "Roles",
    "Sample",
    "SampledGame",
    "SelfPlayPolicyGradient",
    "StochasticNashMP",
    "StochasticNashProx",
    "TabularPolicy",
    "TrainResult",
    "dpo_loss",
    "ipo_loss",
    "linear_decay",
    "no_decay",
    "policy_gradient_loss",
    "train",
]

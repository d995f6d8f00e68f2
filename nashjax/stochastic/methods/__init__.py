"""Methods that learn from comparisons; all offer what `Method` says."""

from nashjax.stochastic.methods.base import (
    LearnerState,
    Method,
    PolicyMethod,
    Roles,
    linear_decay,
    no_decay,
)
from nashjax.stochastic.methods.nash_mp import AveragedNashMP, StochasticNashMP
from nashjax.stochastic.methods.rivals import (
    MMDPolicyGradient,
    NashMDPolicyGradient,
    OnlineDPO,
    OnlineIPO,
    SelfPlayPolicyGradient,
    StochasticNashProx,
)
from nashjax.stochastic.methods.tabular import ClosedFormNashMP, PlugIn

__all__ = [
    "AveragedNashMP",
    "ClosedFormNashMP",
    "LearnerState",
    "MMDPolicyGradient",
    "Method",
    "NashMDPolicyGradient",
    "OnlineDPO",
    "OnlineIPO",
    "PlugIn",
    "PolicyMethod",
    "Roles",
    "SelfPlayPolicyGradient",
    "StochasticNashMP",
    "StochasticNashProx",
    "linear_decay",
    "no_decay",
]

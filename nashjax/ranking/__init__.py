"""Items ranked from head-to-head records, fairly also where preferences are cyclic; needs the extra `rank`.

`Battles.read` takes records from files and tables, `rank` gives masses, payoffs and ranks with bootstrap intervals.
"""

from nashjax.ranking.battles import BadRows, Battles, Counts, Label
from nashjax.ranking.bradley_terry import bradley_terry
from nashjax.ranking.compare_next import Suggestion
from nashjax.ranking.rank import Estimate, Ranking, rank
from nashjax.ranking.structure import Cycle, Structure, find_structure

__all__ = [
    "BadRows",
    "Battles",
    "Counts",
    "Cycle",
    "Estimate",
    "Label",
    "Ranking",
    "Structure",
    "Suggestion",
    "bradley_terry",
    "find_structure",
    "rank",
]

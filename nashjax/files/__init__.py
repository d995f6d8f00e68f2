"""Games from files, answers to files. What cannot be used raises `BadInput`."""

from nashjax.files.errors import BadInput
from nashjax.files.payoffs import PayoffFile, read_payoffs
from nashjax.files.read import FORMATS, GameFile, read_games
from nashjax.files.reference import read_reference
from nashjax.files.tables import TIE_WORDS, Columns
from nashjax.files.write import Answer, check_output, write_answer

__all__ = [
    "FORMATS",
    "TIE_WORDS",
    "Answer",
    "BadInput",
    "Columns",
    "GameFile",
    "PayoffFile",
    "check_output",
    "read_games",
    "read_payoffs",
    "read_reference",
    "write_answer",
]

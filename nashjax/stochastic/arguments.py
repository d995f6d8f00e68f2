"""The checks of `nashjax.arguments` under the names that `nashjax.lm` knows them by."""

from nashjax.arguments import check_integer as at_least
from nashjax.arguments import check_key as random_key
from nashjax.arguments import check_number as number
from nashjax.arguments import check_positive as positive

__all__ = ["at_least", "number", "positive", "random_key"]

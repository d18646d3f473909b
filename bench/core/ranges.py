"""Ranges of hyper-parameters and arguments, declared where they are: `steps: Annotated[int, Ge(1)] = 10`.

The marks are those of `annotated_types`. A suite file, a defense spec and the command line are checked against them;
a direct call of the function is not.
"""

from annotated_types import Ge, Gt, Interval, Le, Lt

__all__ = ["Ge", "Gt", "Interval", "Le", "Lt"]

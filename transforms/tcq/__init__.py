"""Trellis-coded quantisation: the transform, and the search for the best path."""

from .stage import Tcq as Tcq
from .stage import quantisers as quantisers

"""A table of values or short vectors: the transform, and the clustering that finds the table."""

from .old import Codebook1 as Codebook1
from .old import Codebook2 as Codebook2
from .stage import Codebook as Codebook

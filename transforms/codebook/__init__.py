"""A table of values or short vectors: the transform, and the clustering that finds the table."""

from .stage import Codebook as Codebook
from .stage import Codebook1 as Codebook1

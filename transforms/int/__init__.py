"""Uniform quantisation: the transform, and the choice of codes that are cheaper to store."""

from .stage import Int as Int
from .stage import Int1 as Int1
from .stage import int8 as int8

"""Lossless compression of real numbers: the packer, how it splits them, and its kernel."""

from .stage import Floats as Floats

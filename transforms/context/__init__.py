"""Adaptive binary arithmetic coding of integers: the packer, its model of rows, columns and neighbours, and its kernels."""

from .stage import Context as Context

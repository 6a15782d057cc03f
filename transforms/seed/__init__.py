"""Principal components: the transform, and the product in a defined order that decodes them."""

from .stage import Seed as Seed

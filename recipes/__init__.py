"""Recipes that ship with stackc; `stackc run NAME` finds them anywhere."""

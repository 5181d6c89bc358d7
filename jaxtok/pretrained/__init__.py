"""Weights that ship with the package, a folder and a model card each; and the recipes that made them."""

"""Recipes: a model as a name, four choices and their parameters, written in YAML."""

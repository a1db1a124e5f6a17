"""The four distributions, the model that joins them, and the objective."""

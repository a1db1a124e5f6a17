"""Discovery of plugins, and the registry of their components."""

"""One generic trainer for every recipe."""

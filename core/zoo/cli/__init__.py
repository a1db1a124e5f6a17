"""The command line. Modules here import torch inside their commands only, so that the light ones stay quick."""

"""The peers of `epoch.py`. The function ``prepare(data_dir)`` of each module returns a function that trains one epoch.

All peers train the same model: a 784-400-(40, 40)-400-784 variational autoencoder with ReLU and a Bernoulli
likelihood, on the 60000 training images of MNIST, in shuffled batches of 128 (the last one has 96), with Adam.
"""

IMAGES = 60_000
BATCH = 128
PIXELS = 784
HIDDEN = 400
LATENT = 40
LR = 1e-3

DEVICE = "cpu"
"""Where the model is; set before a peer is imported."""

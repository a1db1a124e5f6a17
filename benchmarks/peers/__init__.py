"""The peers of `epoch.py`: one module each, with ``prepare(data_dir)`` returning a function that trains one epoch.

All of them train the same thing: a 784-400-(40, 40)-400-784 variational autoencoder with ReLU and a Bernoulli
likelihood, on the 60000 training images of MNIST, in shuffled batches of 128 (the last one has 96), with Adam.
"""

IMAGES = 60_000
BATCH = 128
PIXELS = 784
HIDDEN = 400
LATENT = 40
LEARNING_RATE = 1e-3

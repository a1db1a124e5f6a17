"""Encoder, decoder and prior, the VAE that joins them, and the loss."""

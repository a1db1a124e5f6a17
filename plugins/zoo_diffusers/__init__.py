"""Exchange of spatial autoencoders with diffusers, by folders of `diffusers.AutoencoderKL`."""

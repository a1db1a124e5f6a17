"""Files and folders: atomic writes, digests, manifests, locks and checkpoints."""

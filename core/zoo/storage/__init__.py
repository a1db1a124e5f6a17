"""Files and folders on disk: atomic writes, digests and manifests, locks. Nothing here imports torch."""

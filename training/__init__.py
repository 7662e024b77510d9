"""Stage 2: a face-clip store in, checkpoints out."""

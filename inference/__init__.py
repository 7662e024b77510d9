"""Stage 3: a face-clip store and checkpoints in, scores out."""

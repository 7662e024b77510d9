"""Stage 1: videos in, face-clip store out."""

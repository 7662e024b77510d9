"""Figures for notebooks, from arrays. :mod:`pipeline.viz` is their front."""

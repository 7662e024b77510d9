"""The notebook, and the program that renders it."""

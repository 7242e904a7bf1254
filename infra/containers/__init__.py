"""Containers in production shape: image files, and what makes the folder of secrets that they mount."""

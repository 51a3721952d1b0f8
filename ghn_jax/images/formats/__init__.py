"""Formats of files that images come in."""

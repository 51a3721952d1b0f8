"""Checks that all rooms share: of the fields of dataclasses, and of the files of users."""

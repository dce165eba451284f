"""Fixtures of the end-to-end tests alone."""

from tests.lab.fixtures import shared_lab

__all__ = ["shared_lab"]

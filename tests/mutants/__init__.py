"""Mutation testing of the areas that decide and forward: does a deliberate break of their code turn a test red?

``python -m tests.mutants --help``; docs/testing.md says how to read the outcome.
"""

"""Whose address endpoints see of a UDP flow, and how that is found out."""

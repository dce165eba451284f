"""Logs, metrics, health and events, and the HTTP servers that show them. Decides nothing about traffic."""

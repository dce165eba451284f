"""What we tell others: logs, metrics, health and events. Decides nothing about traffic."""

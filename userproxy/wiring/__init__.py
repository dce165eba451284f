"""The only place that knows every part: builds them, hands them to each other, sees them through to the stop."""

"""The figures of the page: rates, rows and histories out of what a proxy says, and what a tab is sent of them. Pure."""

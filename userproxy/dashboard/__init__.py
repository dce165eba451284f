"""The dashboard: a page on loopback that shows what a running proxy does, made of what its admin API says.

`server` serves the page to one user, `collector` looks at the figures as long as somebody looks at the page, and
`frames` writes what has changed. The page itself is in ``page/``: HTML, CSS and ES modules, served as they are.
"""

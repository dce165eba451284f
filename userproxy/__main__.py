"""``python -m userproxy`` is the command ``userproxy``."""

from userproxy.cli import main

if __name__ == "__main__":
    main(prog_name="userproxy")

"""Things to run. None of it is installed with userproxy."""

"""What the data plane is asked from time to time, to tell people: by problems, Events and the log."""

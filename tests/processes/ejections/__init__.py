"""Tests of userproxy.processes.ejections."""

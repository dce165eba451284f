"""Tests of the hosts, the network and the sandbox that the demo and the end-to-end tests stand on."""

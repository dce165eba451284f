"""What a UDP listener does with the datagrams that it receives."""

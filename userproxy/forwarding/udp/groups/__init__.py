"""Several sockets of one UDP port, so that as many processes take its datagrams."""

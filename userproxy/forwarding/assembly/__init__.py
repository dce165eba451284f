"""The parts that a forwarder is put together of, by area."""

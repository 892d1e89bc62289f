"""Networks that the suite's systems are compared with."""

"""Remote write and remote read of Prometheus: bytes to samples and back, without I/O."""

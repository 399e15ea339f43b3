"""One collector a file, under injectable roots, with node_exporter's names."""

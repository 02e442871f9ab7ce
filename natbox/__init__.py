"""NATBox: the gateway of all clusters. Its table, and the process that keeps the kernel as the table says."""

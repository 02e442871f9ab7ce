"""NodeAgent over gRPC: handlers decode, call the core, encode. The process `caas-agent`."""

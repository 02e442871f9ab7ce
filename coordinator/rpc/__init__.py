"""Coordinator over gRPC: handlers decode, call, encode. The process `caas-coordinator` and its client."""

"""How processes talk: gRPC over mTLS, or over a unix socket that its mode guards. No plaintext TCP, ever."""

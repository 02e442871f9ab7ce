"""The command `caas`: results on standard output, progress and errors on standard error."""

"""The contract between processes: messages, stubs, and the vocabulary they share. No I/O here."""

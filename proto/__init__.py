"""The contract between processes: messages, stubs, the vocabulary they share. I/O in transport/ and disk.py only."""

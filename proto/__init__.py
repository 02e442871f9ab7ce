"""The contract between processes: messages, stubs, and the vocabulary they share. I/O only in transport/ and disk.py."""

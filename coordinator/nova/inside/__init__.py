"""Programs that run inside containers, fed to python3 by standard input. Standard library only, one file each."""

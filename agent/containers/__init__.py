"""The one door to liblxc: worker processes, root file systems, images. Importing this package loads no liblxc."""

"""Nova's services: which there are, and the steps that bring them up."""

"""The coordinator: turns a cluster file into each host's desired state, runs the steps, keeps the journal."""

"""Quality: is this text worth learning from, and if not, why not."""

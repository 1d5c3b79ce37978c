"""Duplicates: what says the same, exactly or nearly."""

"""cli: the front door. Each file is a group of commands; what they do lives in the rooms below."""

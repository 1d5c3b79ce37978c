"""Sources: which files does a name in a recipe mean."""

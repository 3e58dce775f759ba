"""State: everything that mlbox keeps on disk."""

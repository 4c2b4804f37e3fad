"""Model files in smaller types."""

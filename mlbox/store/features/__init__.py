"""The feature store: definitions, online rows, transforms, freshness and quality."""

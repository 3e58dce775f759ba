"""Registration: files become a model version that knows where it came from."""

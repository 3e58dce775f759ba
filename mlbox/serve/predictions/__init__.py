"""The prediction log: every answer, with the features it was given from."""

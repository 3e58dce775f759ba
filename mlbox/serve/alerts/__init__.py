"""Alerts on their way to people: who is told, when, and over which channel."""

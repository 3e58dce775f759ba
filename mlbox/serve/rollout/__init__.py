"""Rollout: shadow and canary, and the verdicts on their traffic."""

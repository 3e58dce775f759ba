"""Serving: inference, routing, promotion gates, the prediction log, drift, rollouts, alerts."""

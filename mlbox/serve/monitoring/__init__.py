"""Monitoring: drift, live performance, business metrics and skew, judged and explained."""

"""Promotion: the evidence for a version, the gates that judge it, what a person decides on."""

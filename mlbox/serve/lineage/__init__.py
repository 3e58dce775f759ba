"""Lineage for others: OpenLineage events of what ran."""

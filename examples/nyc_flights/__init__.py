"""Will a flight from New York arrive more than 15 minutes late? The whole platform on one real question."""

"""What monitoring keeps: alerts, rules, silences, and the rows of the prediction log's upkeep."""

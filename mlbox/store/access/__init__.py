"""Who may do what: accounts, tokens, teams, roles, secrets, quotas."""

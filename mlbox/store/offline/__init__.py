"""The offline store: DuckDB, the SQL that users may write, and views as its tables."""

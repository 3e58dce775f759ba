"""The `mlbox` command: one file per noun."""

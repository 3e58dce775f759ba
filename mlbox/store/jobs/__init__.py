"""Jobs, their states and schedules, and how the box is shared."""

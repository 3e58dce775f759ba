"""Feature views kept up: files that land, schedules, and the jobs of views in free Python."""

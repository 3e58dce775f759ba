"""Labels: what was claimed by whom, and which claim counts at a moment."""

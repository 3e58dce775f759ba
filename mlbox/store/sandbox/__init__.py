"""Disposable processes: whatever users send is parsed, run and looked into there."""

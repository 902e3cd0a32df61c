"""What `graphcnf evaluate` finds out, and how it is shown."""

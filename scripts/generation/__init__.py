"""How `graphcnf generate` draws, writes and goes on after a kill."""

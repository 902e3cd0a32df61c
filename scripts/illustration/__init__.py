"""Pictures that explain the method: what `graphcnf.scripts.figures` draws."""

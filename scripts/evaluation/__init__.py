"""What `graphcnf evaluate` reads: files, models and the data that they are held against."""

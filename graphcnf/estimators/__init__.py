"""Models as parts of other libraries' pipelines: scikit-learn and sbi."""

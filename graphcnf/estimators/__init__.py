"""Models of this package as parts of pipelines of other libraries: scikit-learn and sbi."""

"""Models on the Hugging Face hub: downloaded, uploaded, described by a model card."""

"""Models on the Hugging Face hub: download, upload, and the model card that goes with them."""

"""Other models of images: PixelCNN, a variational autoencoder, an adversarial network."""

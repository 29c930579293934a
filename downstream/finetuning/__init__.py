"""Fine-tuning: an encoder and a small convolutional classifier learn to write down what is said (CTC)."""

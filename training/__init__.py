"""From texts on disk to a pre-trained model: sources, packing, masking, stages of training, validation."""

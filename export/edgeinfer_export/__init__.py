"""The export pipeline: a checkpoint in, a bundle out."""

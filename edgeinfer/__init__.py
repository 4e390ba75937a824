"""edgeinfer: a bundle in, results out."""

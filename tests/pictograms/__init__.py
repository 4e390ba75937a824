"""Seeded pictures of ten everyday classes, and the small detector trained on them."""

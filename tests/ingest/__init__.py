"""Taking images in without identifiers."""
